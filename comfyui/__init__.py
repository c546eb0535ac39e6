"""skipguide for ComfyUI: Spatiotemporal Skip Guidance as nodes, with ComfyUI as its only need."""

from __future__ import annotations

WEB_DIRECTORY = "./web"  # the script of the page, and the nodes' help


async def comfy_entrypoint():
    """Return the pack; ComfyUI calls this to find the nodes."""
    from .pack import SkipGuide

    return SkipGuide()
