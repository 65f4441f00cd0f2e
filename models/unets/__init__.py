"""Diffusion UNets, one file each, and the layers that several truly share."""
