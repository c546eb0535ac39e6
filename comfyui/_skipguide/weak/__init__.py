# Built by `make comfyui` from src/skipguide/weak/__init__.py; do not edit.
"""How a denoiser is weakened, and the prefix that weak passes share with the conditional pass."""
