"""How the losses of samples become the gradient of a step."""
