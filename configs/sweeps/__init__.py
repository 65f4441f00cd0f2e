"""Sweeps: configs whose trials `get_hyper` says, or whose space is searched."""
