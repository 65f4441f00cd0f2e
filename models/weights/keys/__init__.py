"""Where each array of a published checkpoint belongs in a network here, one network a file."""
