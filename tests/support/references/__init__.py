"""Tensors computed by other people's programs, for our own to be compared with, and the scripts
that made them."""
