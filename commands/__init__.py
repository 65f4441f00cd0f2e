"""The modes of the command line, one file each: they read the config and print."""
