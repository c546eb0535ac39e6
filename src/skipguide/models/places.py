"""Leave out where the files of a model lie: two machines have them in other
places."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skipguide.method.protocols import PlainData, ReadOnlyData

_PLACES = ("base_model", "component")  # whose content is in the fingerprint of the weights


def without_places(content: ReadOnlyData) -> PlainData:
    """Return complete settings, ready for JSON, without the places of files.

    A LoRA stands for its content, its denoiser and its strength, a mask for its content. The
    content of the files of the other settings is in `loading.weights_fingerprint`.
    """
    kept = {name: value for name, value in content.items() if name not in _PLACES}
    if kept.get("lora"):
        kept["lora"] = [_identity(entry) for entry in kept["lora"]]
    if (kept.get("guidance") or {}).get("terms"):
        kept["guidance"] = {
            **kept["guidance"],
            "terms": [_without_mask_name(term) for term in kept["guidance"]["terms"]],
        }
    return kept


def _without_mask_name(term: ReadOnlyData) -> PlainData:
    mask = term.get("mask")
    return {**term, **({"mask": mask["sha256"]} if mask else {})}


def _identity(lora: ReadOnlyData) -> PlainData:
    known = {"scale": lora.get("scale", 1.0), "sha256": lora.get("sha256", lora["path"])}
    target = lora.get("component")
    return {**known, **({"component": target} if target else {})}


def describe_loras(loras: Any) -> Iterator[str]:
    """Yield each LoRA of plain settings as "style.safetensors 0.8 (1f2e3d4c)"."""
    for lora in loras or ():
        target = f" on {lora['component']}" if lora.get("component") else ""
        content = f" ({lora['sha256'][:8]})" if lora.get("sha256") else ""
        yield f"{Path(lora['path']).name} {lora.get('scale', 1.0):g}{target}{content}"


def format_lora(lora: ReadOnlyData) -> str:
    """Return a LoRA of plain settings as it is written: "style.safetensors:0.8"."""
    target = f"{lora['component']}=" if lora.get("component") else ""
    return f"{target}{lora['path']}:{lora.get('scale', 1.0):g}"
