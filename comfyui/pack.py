"""The nodes of the pack."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io  # pyright: ignore[reportMissingImports]

from .nodes import (
    SkipGuideGuider,
    SkipGuideInfo,
    SkipGuideSchedule,
    SkipGuideSLG,
    SkipGuideSTG,
    inputs_of_row,
)
from .page import serve_presets
from .tune_nodes import SkipGuideLayerMap, SkipGuidePresetFile


class SkipGuide(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        serve_presets(inputs_of_row)  # not in on_load, which ComfyUI 0.3.64 does not call
        return [SkipGuideSTG, SkipGuideSLG, SkipGuideSchedule, SkipGuideGuider,
                SkipGuidePresetFile, SkipGuideLayerMap, SkipGuideInfo]  # fmt: skip
