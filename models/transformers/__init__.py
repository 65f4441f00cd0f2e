"""Diffusion transformers, one file each."""
