# Built by `make comfyui` from src/skipguide/stats/__init__.py; do not edit.
"""Estimates with 95 % intervals, agreement of raters, and preference."""
