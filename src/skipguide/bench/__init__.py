"""Measurements of the cost of a guided step and of a layer."""
