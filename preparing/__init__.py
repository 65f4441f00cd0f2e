"""The prepare verb: a folder of pictures becomes a data set."""
