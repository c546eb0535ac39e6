"""skipguide for ComfyUI: Spatiotemporal Skip Guidance as nodes. Needs nothing but ComfyUI itself."""

from __future__ import annotations


async def comfy_entrypoint():
    """What ComfyUI asks a pack of V3 nodes for."""
    from .nodes import SkipGuide

    return SkipGuide()
