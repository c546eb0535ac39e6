"""What the page of ComfyUI is told: texts of nodes, warnings, and what is published."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any

from comfy_api.latest import io  # pyright: ignore[reportMissingImports]

from ._skipguide.families.presets import Preset, describe_preset
from .bins import write_schedule
from .models import BlockChain
from .node_request import NodeRequest, describe_terms
from .published import published_presets

ALIASES = {
    "SkipGuideSTG": ["stg", "skip guidance", "weak pass", "ltx stg", "ltx-2 stg", "modality"],
    "SkipGuideSLG": ["slg", "skip layer", "skip layer guidance", "wan slg"],
    "SkipGuideSchedule": ["stg advanced", "stg schedule", "ltx 13b"],
    "SkipGuideGuider": ["stg guider", "multimodal guider"],
    "SkipGuideInfo": ["slg info", "stg info", "layers"],
    "SkipGuidePresetFile": ["stg preset", "skipguide tune"],
    "SkipGuideLayerMap": ["which layers", "layer search", "stg layers", "slg layers"],
}
_log = logging.getLogger("skipguide")


def schema_of(node_id: str, **parts: Any) -> io.Schema:
    """Return the schema of a node, with other words for the search where ComfyUI has such."""
    known = {entry.name for entry in fields(io.Schema)}
    words = {"search_aliases": ALIASES[node_id]} if "search_aliases" in known else {}
    return io.Schema(node_id=node_id, **words, **parts)


def describe_costs(chain: BlockChain, request: NodeRequest) -> list[str]:
    """Return a line for each term of a request: what it skips, and what that costs."""
    share = request.guidance.share_prefix
    return [
        f"{describe_terms([term])}: {chain.cost(term, share):.2f} of a forward pass"
        for term in request.guidance.terms
    ]


def describe_row(row: Preset) -> str:
    """Return a preset in words: for which model, what, and where it was published."""
    note = f" {row.note}" if row.note else ""
    return f"{row.name}, for {row.model}: {describe_preset(row)}.{note} Source: {row.source}"


def say_request(model: Any, request: NodeRequest, row: Preset | None) -> dict[str, Any]:
    """Return what a node shows once it ran: its preset in words, and the costs of its terms.

    Args:
        model: a ModelPatcher.
        row: the preset that its inputs name.
    """
    from .step import chain_of

    lines = [] if row is None else [describe_row(row)]
    text = "\n".join([*lines, *describe_costs(chain_of(model), request)])
    return {"text": (text,), "skipguide_preset": ("" if row is None else row.name,)}


def warn(text: str) -> None:
    """Log a warning, and show it in the page of whoever runs the graph."""
    _log.warning(text)
    from server import PromptServer  # pyright: ignore[reportMissingImports]

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_sync("skipguide.warning", {"text": text}, server.client_id)


def preset_texts(inputs_of_row: Any) -> dict[str, dict[str, Any]]:
    """Return every preset in words and as the values of widgets, by name.

    Args:
        inputs_of_row: a function from a preset of one term to the inputs of a node.
    """
    found = {}
    for row in published_presets().values():
        if row.schedule:
            values = {"bins": write_schedule(row.schedule)}
        else:
            values = {**inputs_of_row(row), "layers": ",".join(map(str, row.layers))}
        found[row.name] = {"text": describe_row(row), "values": values}
    return found


def serve_presets(inputs_of_row: Any) -> None:
    """Answer /skipguide/presets, by which the page says what a preset is and applies it."""
    from aiohttp import web  # pyright: ignore[reportMissingImports]
    from server import PromptServer  # pyright: ignore[reportMissingImports]

    texts = preset_texts(inputs_of_row)

    async def answer(_request: Any) -> Any:
        return web.json_response(texts)

    PromptServer.instance.routes.get("/skipguide/presets")(answer)
