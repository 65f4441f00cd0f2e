"""The config as the command line gives it: read, overridden, and held against what a mode reads."""
