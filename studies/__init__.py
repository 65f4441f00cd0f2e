"""Documents of this repository, one folder each."""
