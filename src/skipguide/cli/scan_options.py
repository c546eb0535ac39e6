"""The options that say what a scan of layers looks at: of `layers --map` and of `tune`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipguide.models.settings import ModelSettings

if TYPE_CHECKING:
    from skipguide.tuning.scan.record import ScanOptions

MODEL, SCAN = "Model and video", "What is looked at"
_OF_VIDEOS = (
    "negative_prompt", "image_fit", "min_guidance_scale", "steps", "height", "width", "num_frames",
    "fps", "motion_bucket_id", "noise_aug_strength", "decode_chunk_size", "max_sequence_length",
)  # fmt: skip
# Settings that all videos share; guidance is what is looked for.
COMMON = (*ModelSettings.model_fields, *_OF_VIDEOS)
AXES = ("spatial", "temporal", "both")

Skips = Annotated[
    list[str] | None,
    typer.Option(
        "--skips",
        help="Kinds of skip, separated by commas.",
        show_default="residual,attention",
        rich_help_panel=SCAN,
    ),
]
Axes = Annotated[
    list[str] | None,
    typer.Option(
        "--axes",
        help="Of models with attention in space and in time: spatial, temporal, both.",
        show_default="all",
        rich_help_panel=SCAN,
    ),
]
Layers = Annotated[
    str | None,
    typer.Option("--layers", help="As 4-12 or 8,9.", show_default="all", rich_help_panel=SCAN),
]


def images_option(show_default: str | bool = False, panel: str | None = None) -> Any:
    """Return the option --images of a verb that begins videos from pictures.

    Args:
        show_default: what is taken without it.
        panel: the title under which the help lists it.
    """
    return typer.Option(
        "--images",
        help="Folder of pictures for image-to-video models: those that --prompts names, or one"
        " for each prompt in the order of their names, or one video for each without prompts.",
        show_default=show_default,
        rich_help_panel=panel,
    )


def split_commas(texts: Sequence[str]) -> list[str]:
    """Return the parts of texts, each of which may have several, separated by commas."""
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def parse_scan(
    skips: Sequence[str] | None,
    axes: Sequence[str] | None,
    layers: str | None,
    levels: str | None = None,
) -> ScanOptions:
    """Return which cells a scan has, and where it looks.

    Raises:
        ValueError: for an axis that is none, layers that are none, or a level out of range.
    """
    from skipguide.method import parsing
    from skipguide.tuning.scan.record import LEVELS, ScanOptions

    return ScanOptions(
        tuple(split_commas(skips or [])) or None,
        parse_axes(axes or []),
        None if layers is None else parsing.parse_layers(layers),
        LEVELS if levels is None else _parse_levels(levels),
    )


def parse_axes(texts: Sequence[str]) -> tuple[str | None, ...] | None:
    """Return the axes of a scan: spatial, temporal, or both together; None for all of them.

    Raises:
        ValueError: for another axis.
    """
    parts = split_commas(texts)
    if wrong := [part for part in parts if part not in AXES]:
        raise ValueError(
            f"--axes must be some of {', '.join(AXES)}, but got {wrong[0]!r}. Choose among them."
        )
    return tuple(None if part == "both" else part for part in parts) or None


def _parse_levels(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, split_commas([text])))
    except ValueError:
        raise ValueError(
            f"--levels must be shares of noise, as in 0.95,0.8,0.6,0.3, but got {text!r}. Correct"
            " it."
        ) from None
