# Built by `make comfyui` from src/skipguide/families/__init__.py; do not edit.
"""What is known of each model family, as data, and how it is looked up."""
