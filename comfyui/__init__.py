"""skipguide for ComfyUI: Spatiotemporal Skip Guidance as nodes, with ComfyUI as its only need."""

from __future__ import annotations


async def comfy_entrypoint():
    """Return the pack; ComfyUI calls this to find the nodes."""
    from .pack import SkipGuide

    return SkipGuide()
