"""How rows of images are measured: what evaluations, sweeps and studies share."""
