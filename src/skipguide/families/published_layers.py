"""Layers that others found best by an exhaustive search, as data: what a scan can be held against.

No preset is made of them. `skipguide layers MODEL --map --published` compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipguide.method import parsing


@dataclass(frozen=True)
class BestLayers:
    """The best layers of one checkpoint.

    Args:
        checkpoint: the model that was searched.
        family: the name of its row.
        depth: how many blocks its first stack has.
        layers: the best of them, as `STG(layers=...)` takes them.
        skip: the kind of skip.
        source: who searched.
        measure: by what they are the best.
    """

    checkpoint: str
    family: str
    depth: int
    layers: str
    skip: str
    source: str
    measure: str

    @property
    def addresses(self) -> frozenset[str]:
        """The layers with the name of their stack, "blocks:6"."""
        return frozenset(
            layer if isinstance(layer, str) else f"blocks:{layer}"
            for layer in parsing.parse_layers(self.layers)
        )


BEST_LAYERS = (
    BestLayers(
        checkpoint="genmo/mochi-1-preview",
        family="mochi",
        depth=48,
        layers="6-10,21,34-36,38,39,43-47",
        skip="residual",
        source="MusicInfuser, Hong et al. 2025, arXiv 2503.14505, appendix H and its released code",
        measure=(
            "the 16 of 48 layers with the highest imaging quality of VBench under STG; the list is"
            " that of the code (audio_cross_attn_layers), which the paper says was chosen so"
        ),
    ),
)


def find_best_layers(family: str, depth: int) -> BestLayers:
    """Return the published best layers of a model.

    Raises:
        ValueError: if none are known for a model of this family and depth.
    """
    found = [row for row in BEST_LAYERS if (row.family, row.depth) == (family, depth)]
    if not found:
        raise ValueError(
            "--published needs a model whose best layers somebody published"
            f" ({', '.join(_describe(BEST_LAYERS))}), but got one of the family {family} with"
            f" {depth} blocks. Leave it out."
        )
    return found[0]


def _describe(rows: Sequence[BestLayers]) -> list[str]:
    return [f"{row.checkpoint}: {row.family}, {row.depth} blocks" for row in rows]
