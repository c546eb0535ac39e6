"""Estimates with 95 % intervals, agreement of raters, and preference."""
