"""Configs that repeat published rows of guidance tables, once the weights are on disk."""
