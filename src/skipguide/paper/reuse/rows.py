"""The ways of spending fewer forward passes that `skipguide paper reuse` compares, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from skipguide import NAG, SLG, STG, CFGReuse
from skipguide.method.protocols import PlainData
from skipguide.method.request import Term

EXACT = "STG, exact"
PLAIN = "CFG"
BUDGET = "STG, budget 2"


@dataclass(frozen=True)
class Row:
    """One way of guidance.

    Args:
        name: as the table has it; it is the name of its record too.
        stg: the arguments of the STG term beside layers and scale; None is none.
        options: of guide().
        slg: the layers are skipped in u, without an STG term.
        steps: of sampling, as a factor of the usual number.
        extra_passes: a step, of other implementations, whose result is the same.
        is_main: on all clips; the other rows are on the first ones only.
        nag: a term beside STG or without it.
        cfg: the model's CFG; without it a step is one pass and the weak ones.
    """

    name: str
    stg: PlainData | None = field(default_factory=dict)
    options: PlainData = field(default_factory=dict)
    slg: bool = False
    steps: float = 1.0
    is_main: bool = False
    nag: NAG | None = None
    cfg: bool = True

    def terms(self, layers: tuple[int | str, ...], scale: float) -> list[Term | NAG]:
        """Return the terms of this row for a model's layers and scale."""
        if self.slg:
            return [SLG(layers)]
        found: list[Term | NAG] = []
        if self.stg is not None:
            found.append(STG(layers, scale, **self.stg))
        if self.nag is not None:
            found.append(self.nag)
        return found


ROWS = (
    Row(EXACT, is_main=True),
    Row(PLAIN, None, is_main=True),
    Row(BUDGET, options=dict(budget=2.0), is_main=True),
    Row("CFG, 1.25 times the steps", None, steps=1.25),
    Row("SLG", slg=True),
    Row("STG, every 2", dict(every=2)),
    Row("STG, every 4", dict(every=4)),
    Row("STG, every 0.5", dict(every=0.5)),
    Row("STG, every 0.5, the last difference kept", dict(every=0.5, extrapolate=0)),
    Row("STG, every 0.25", dict(every=0.25)),
    Row("STG, every auto", dict(every="auto")),
    Row("STG, CFG of 0.75 of the steps", options=dict(cfg=CFGReuse(0.75))),
    Row("STG, CFG where it changes", options=dict(cfg=CFGReuse("auto"))),
    Row("STG, budget 2.25", options=dict(budget=2.25)),
    Row("STG, budget 1.75", options=dict(budget=1.75)),
    Row("STG, budget 1.5", options=dict(budget=1.5)),
)
# The layers and scale of each model, and its CFG: an early layer, whose weak pass is dear, and a
# scale at which STG moves the clips as far as its authors' do.
MODELS: dict[str, PlainData] = {
    "mochi": dict(layers=(5,), scale=1.0, guidance_scale=4.5),
    "opensora": dict(layers=("spatial:3",), scale=1.0, guidance_scale=4.5),
}
