"""Published training recipes, each with its numbers and a laptop-size version of itself."""
