# Built by `make comfyui` from src/skipguide/tuning/scan/__init__.py; do not edit.
"""The scan: what skipping each layer does to the prediction, as a map of the layers."""
