"""The settings that race: CFG alone in several ways, the published preset, the scan's shortlist.

STG pays where CFG is low (docs/tune.md), so that every cell of the shortlist races beside the
pipeline's own guidance scale and beside a lower one. CFG alone is there at both scales, and with as
many more steps as the first cell of the scan costs; the winner meets it at its own price."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from skipguide.method.protocols import PlainData
from skipguide.tuning.race.state import AT_THE_SAME_PRICE, BASELINE, LOWER

if TYPE_CHECKING:
    from skipguide.tuning.scan.record import Cell

Role = Literal["cfg", "cfg-low", "cfg-price", "preset", "scan", "search"]
PUSH = 2.0  # the scale with which cells race: with normalize=True a push of 0.2 |c|


@dataclass(frozen=True)
class Scanned:
    """A cell of the layer map, with the cost of its weak pass as a part of a forward pass."""

    cell: Cell
    cost: float


@dataclass(frozen=True)
class Candidate:
    """One setting of the race.

    Args:
        name: of the setting in the run.
        role: its place in the race.
        given: the setting in the words of a plan.
        passes: forward passes of one sample that a video takes.
        guidance_scale: g of CFG; None for models without one.
        cell: the skipped layer; None for CFG alone and for presets.
        scale, start, stop: of STG; scale 0 for CFG alone.
    """

    name: str
    role: Role
    given: PlainData = field(compare=False)
    passes: float
    guidance_scale: float | None = None
    cell: Cell | None = None
    scale: float = 0.0
    start: float = 0.0
    stop: float = 1.0

    @property
    def has_stg(self) -> bool:
        """Whether it skips layers at all."""
        return self.role in ("preset", "scan", "search")

    @property
    def title(self) -> str:
        """The name that sentences give it, as "CFG alone with 31 steps"; with STG it is `name`."""
        if self.has_stg:
            return self.name
        g, steps, at = self.guidance_scale, self.given.get("steps"), ""
        if g is not None and self.role == LOWER:
            at = f" at scale {g:g}{' (off)' if g <= 1 else ''}"
        more = "" if steps is None else f" with {steps} steps"
        return f"{'no guidance' if g is None else 'CFG alone'}{at}{more}"

    def to_dict(self) -> PlainData:
        """Return it as plain data, ready for JSON."""
        found = {**dataclasses.asdict(self), "title": self.title}
        return {**found, "cell": None if self.cell is None else self.cell.name}


@dataclass(frozen=True)
class Model:
    """The facts of a model on which the candidates depend.

    Args:
        steps: denoising steps of a video.
        guidance_scale: the scale at which CFG runs; None for models that have none, or whose scale
            is 1 or less.
        has_preset: whether a published setting is known.
        preset_cost: of its weak pass, as a part of a forward pass.
    """

    steps: int
    guidance_scale: float | None = None
    has_preset: bool = False
    preset_cost: float = 1.0

    @property
    def plain_passes(self) -> int:
        """Forward passes per step without STG."""
        return _plain_passes(self.guidance_scale)


def candidates(
    model: Model, shortlist: Sequence[Scanned], lower: Sequence[float] = ()
) -> list[Candidate]:
    """Return all candidates, those first that a small budget keeps.

    Args:
        shortlist: cells of the scan in their order.
        lower: further guidance scales; none means half of the pipeline's, if that is above 1.

    Raises:
        ValueError: for lower scales where the model has no CFG.
    """
    scales = _guidance_scales(model, lower)
    first, rest = scales[0], scales[1:]
    alone = [cfg_alone(model, g) for g in scales]
    beside = {g: [with_cell(model, entry, g) for entry in shortlist] for g in scales}
    priced = at_price(model, beside[first][0].passes) if shortlist else None
    preset = [_preset(model)] if model.has_preset else []
    found = [alone[0], *beside[first][:2], *alone[1:]]
    found += [one for g in rest for one in beside[g][:1]]
    found += [*([priced] if priced else []), *preset, *beside[first][2:]]
    found += [one for g in rest for one in beside[g][1:]]
    return found


def check_scales(model: Model, lower: Sequence[float]) -> None:
    """Check that a model can have further guidance scales, before anything is made.

    Raises:
        ValueError: where it has no CFG.
    """
    _guidance_scales(model, lower)


def _guidance_scales(model: Model, lower: Sequence[float]) -> list[float | None]:
    own = model.guidance_scale
    if own is None and lower:
        raise ValueError(
            "guidance scales beside the first one must be for a model with CFG, but this one runs"
            f" without, and got {', '.join(f'{g:g}' for g in lower)}. Leave them out."
        )
    half = [own / 2] if own is not None and own / 2 > 1 else []
    return [own, *(g for g in (lower or half) if g != own)]


def cfg_alone(model: Model, guidance_scale: float | None) -> Candidate:
    """Return the candidate without STG at a guidance scale."""
    own = guidance_scale == model.guidance_scale
    name = "plain" if guidance_scale is None else f"cfg-{guidance_scale:g}"
    given = {"name": name, "stg_scale": 0.0, **_scale_words(guidance_scale)}
    passes = float(model.steps * _plain_passes(guidance_scale))
    return Candidate(name, BASELINE if own else LOWER, given, passes, guidance_scale)


def with_cell(
    model: Model,
    entry: Scanned,
    guidance_scale: float | None,
    scale: float = PUSH,
    window: tuple[float, float] = (0.0, 1.0),
    role: Role = "scan",
) -> Candidate:
    """Return the candidate that skips a scanned cell.

    Args:
        scale: in tenths of the length of c (`normalize=True`).
        window: start and stop, in fractions of the run.
    """
    cell, (start, stop) = entry.cell, window
    term = {"layers": cell.layers, "scale": scale, "skip": cell.skip, "normalize": True}
    term |= {"axis": cell.axis} if cell.axis else {}
    term |= {"start": start} if start else {}
    term |= {"stop": stop} if stop != 1 else {}
    beside = "" if guidance_scale is None else f"cfg-{guidance_scale:g} + "
    parts = [f"{beside}{cell.name} x{scale:g}"]
    parts += [f"{start:g}-{stop:g}"] if window != (0.0, 1.0) else []
    name = " ".join(parts)
    given = {"name": name, "stg": term, **_scale_words(guidance_scale)}
    steps_on = sum(start <= i / model.steps < stop for i in range(model.steps))
    passes = model.steps * _plain_passes(guidance_scale) + steps_on * entry.cost
    return Candidate(name, role, given, passes, guidance_scale, cell, scale, start, stop)


def _plain_passes(guidance_scale: float | None) -> int:
    """Return the forward passes of a step without STG: of a scale of 1 or less there is no CFG."""
    return 1 if guidance_scale is None or guidance_scale <= 1 else 2


def _scale_words(guidance_scale: float | None) -> Mapping[str, float]:
    return {} if guidance_scale is None else {"guidance_scale": guidance_scale}


def at_price(model: Model, passes: float) -> Candidate | None:
    """Return CFG alone with the number of steps that comes nearest to so many passes.

    None where these are the steps that the model has anyway.
    """
    steps = round(passes / model.plain_passes)
    if steps == model.steps:
        return None
    plain = cfg_alone(model, model.guidance_scale)
    name = f"{plain.name}-{steps}-steps"
    given = {**plain.given, "name": name, "steps": steps}
    return dataclasses.replace(
        plain, name=name, role=AT_THE_SAME_PRICE, given=given,
        passes=float(steps * model.plain_passes),
    )  # fmt: skip


def _preset(model: Model) -> Candidate:
    passes = model.steps * (model.plain_passes + model.preset_cost)
    given = {"name": "preset", "stg": "preset", **_scale_words(model.guidance_scale)}
    return Candidate("preset", "preset", given, passes, model.guidance_scale, scale=1.0)
