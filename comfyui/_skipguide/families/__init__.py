# Built by `make comfyui` from src/skipguide/families/__init__.py; do not edit.
"""The facts about each model family, as data, and their lookup."""
