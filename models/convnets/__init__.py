"""Convolutional diffusion networks without a UNet's plan, one file each."""
