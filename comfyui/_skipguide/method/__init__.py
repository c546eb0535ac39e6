# Built by `make comfyui` from src/skipguide/method/__init__.py; do not edit.
"""The method itself, on torch alone: formula, terms, rules for CFG, perturbations, restart,
request."""
