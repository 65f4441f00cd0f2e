"""Solvers: ways to follow dx/dsigma = (x - D)/sigma down a schedule, one family a file."""
