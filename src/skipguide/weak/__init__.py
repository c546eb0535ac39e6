"""Weakened denoisers, and the prefix that weak passes share with the conditional pass."""
