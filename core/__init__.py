"""The ground floor: jax and numpy, and nothing else of this project."""
