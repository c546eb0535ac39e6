"""Intervals, agreement and preference."""
