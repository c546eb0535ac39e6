# Built by `make comfyui` from src/skipguide/tuning/__init__.py; do not edit.
"""The layer, the scale, and whether to use STG at all, by measurement on one's own model."""
