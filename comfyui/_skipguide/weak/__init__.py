# Built by `make comfyui` from src/skipguide/weak/__init__.py; do not edit.
"""Weakened denoisers, and the prefix that weak passes share with the conditional pass."""
