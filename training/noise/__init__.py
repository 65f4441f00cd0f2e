"""Noise levels that are trained, what noise does to an example, and how much each level counts."""
