"""One row of a table: how clips are generated.

Rows with equal settings are the same row, whatever table they are in.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from skipguide.method.terms import STG, explicit_layers

# "real" are the clips that the prompts describe, "autoencoder" the same encoded and decoded,
# "reference" other real clips.
SOURCES = ("guided", "real", "autoencoder", "reference")


@dataclass(frozen=True)
class Row:
    """CFG and terms of STG; or, with another `source`, real clips, which are not generated.

    Args:
        steps: of sampling; None is the model's number.
        window: CFG in this part of the run only, as fractions of it; None is all of it.
        checkpoint: the training step of an earlier state of the model, and the scale of the push
            away from it (Autoguidance).
    """

    guidance_scale: float = 1.0  # 1 is no CFG
    terms: tuple[STG, ...] = ()
    rescale: float = 0.0
    orthogonalize: bool = False
    share_prefix: bool = True
    source: str = "guided"
    steps: int | None = None
    window: tuple[float, float] | None = None
    checkpoint: tuple[int, float] | None = None

    def __post_init__(self) -> None:
        if self.rescale and not self.terms:
            raise ValueError(
                f"rescale needs a term, but got {self.rescale:g} without one. Leave it out."
            )

    @property
    def name(self) -> str:
        """The name for files: what differs from plain sampling."""
        if self.source != "guided":
            return self.source
        parts = [f"cfg-{self.guidance_scale:g}", *(_term_name(term) for term in self.terms)]
        parts += [f"phi-{self.rescale:g}"] if self.rescale else []
        parts += ["orth"] if self.orthogonalize else []
        parts += [] if self.share_prefix else ["full"]
        parts += ["weak-{}x{:g}".format(*self.checkpoint)] if self.checkpoint else []
        parts += ["window-{:g}-{:g}".format(*self.window)] if self.window else []
        parts += [f"{self.steps}-steps"] if self.steps else []
        return "+".join(parts)

    @property
    def label(self) -> str:
        """The name in tables."""
        if self.source != "guided":
            return {"real": "real clips", "autoencoder": "autoencoder alone"}.get(
                self.source, self.source
            )
        parts = [f"CFG {self.guidance_scale:g}" if self.guidance_scale != 1 else "no CFG"]
        parts += [_term_label(term) for term in self.terms]
        parts += [f"rescale {self.rescale:g}"] if self.rescale else []
        parts += ["Eq. 21"] if self.orthogonalize else []
        parts += [] if self.share_prefix else ["full weak pass"]
        if self.checkpoint:
            parts.append(
                "Autoguidance {1:g}, its weak model after {0} steps".format(*self.checkpoint)
            )
        parts += ["in {:g} to {:g} of the run".format(*self.window)] if self.window else []
        parts += [f"{self.steps} steps"] if self.steps else []
        return ", ".join(parts)

    def settings(self) -> dict[str, object]:
        """Return the settings that a record of this row must have, ready for JSON."""
        terms = [
            {
                "layers": explicit_layers(term), "scale": term.scale, "skip": term.skip,
                "axis": term.axis,
                "normalize": term.normalize,
            }
            for term in self.terms
        ]  # fmt: skip
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        # Records from before these fields stay valid.
        unset = [name for name in ("steps", "window", "checkpoint") if found[name] is None]
        return {**{k: v for k, v in found.items() if k not in unset}, "terms": terms}


def _term_name(term: STG) -> str:
    kind = {"residual": "R", "attention": "A"}[term.skip] + (term.axis or "")[:1]
    where = "_".join(str(layer).replace(":", "") for layer in explicit_layers(term))
    return f"{kind}{where}x{term.scale:g}{'n' if term.normalize else ''}"


def _term_label(term: STG) -> str:
    kind = f"STG-{term.skip[0].upper()}{f' {term.axis}' if term.axis else ''}"
    length = " of matched length" if term.normalize else ""
    return f"{kind} {term.scale:g} at {', '.join(map(str, explicit_layers(term)))}{length}"
