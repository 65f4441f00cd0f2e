"""The verbs between pixels and latents: encode a data set, decode latents and samples."""
