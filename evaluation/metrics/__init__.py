"""Metrics on features, class probabilities, pixels and points; NumPy and SciPy in float64."""
