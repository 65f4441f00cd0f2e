"""Averages of weights: kept while training, or made afterwards from what was stored."""
