"""Pages of the public names, for mkdocstrings to fill from their docstrings."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

import skipguide

# Title, module, and what its page begins with.
MODULES = {
    "runs": "Many videos by plan, and what is known of them: [sweeps](../sweeps.md).",
    "metrics": "Measures of videos: [metrics](../metrics.md). The functions are in modules of it.",
    "opensora": "Open-Sora 1.2 for diffusers: [Open-Sora](../opensora.md).",
}
GROUPS = {
    "Guide a pipeline": ("guide", "Guide", "tune", "enable_context_parallel"),
    "What to push away from": (
        "STG", "SLG", "NAG", "Modality", "Random", "WithLoRA", "WithoutLoRA",
    ),
    "When": ("Schedule", "Bin", "Restart"),
    "Rules in the place of CFG": (
        "APG", "APGMix", "C2FG", "CFGReuse", "CFGZero", "FDG", "Interval", "MAMBOG", "RectifiedCFG",
        "TAG", "TCFG",
    ),
}  # fmt: skip


def api_pages() -> dict[str, str]:
    """Return the pages of the API by their paths below docs/.

    Raises:
        ValueError: if a public name is in no group.
    """
    grouped = {name for names in GROUPS.values() for name in names}
    missing = set(skipguide.__all__) - grouped - {"__version__"}
    if missing:
        raise ValueError(
            "each public name must be in a group of tools/docsite/api_pages.py, but these are in"
            f" none: {', '.join(sorted(missing))}. Add them."
        )
    pages = {"api/index.md": _top(), "api/guider.md": _guider()}
    for module, introduction in MODULES.items():
        names = importlib.import_module(f"skipguide.{module}").__all__
        body = _entries(f"skipguide.{module}", names)
        pages[f"api/{module}.md"] = f"# skipguide.{module}\n\n{introduction}\n\n{body}"
    return pages


def _top() -> str:
    parts = ["# skipguide\n\nAll public names of the package. Shapes are `(B, C, F, H, W)`.\n"]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n\n{_entries('skipguide', names, level=3)}")
    return "\n".join(parts)


def _guider() -> str:
    text = (
        "# skipguide.guider\n\nThe driver for pipelines with a guider: Modular pipelines, and those"
        " that take a `guider`.\n\n"
    )
    return text + _entries("skipguide.guider", ["SkipGuidance"])


def _entries(module: str, names: Iterable[str], level: int = 2) -> str:
    return "\n".join(
        f"::: {module}.{name}\n    options:\n      heading_level: {level}\n" for name in names
    )
