"""Samplers that weigh several trajectories against each other."""
