"""The rows of the tables on prompts that leave things open, as data.

The layers and scales of CHOICES are not chosen yet: until lab-mochi-2 is trained they are those of
the paper's Mochi row, at the same place in the network. `skipguide tune` on other prompts chooses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from skipguide.lab import mochi
from skipguide.method.terms import STG, explicit_layers
from skipguide.paper.analysis import REAL
from skipguide.paper.open import prompts
from skipguide.paper.open.clips import STEPS
from skipguide.paper.rows import Row
from skipguide.weak.weak_pass import stack_cost

MODEL = "lab-mochi-2"
NUM_LAYERS = mochi.OPEN.transformer["num_layers"]
CFG_SCALES = (2.0, 4.0, 6.0)
WINDOW = (0.2, 0.8)  # of interval CFG
# Steps of the training after which STG is tried too: 10, 25 and 50 % of it.
PROGRESS = mochi.OPEN.schedule.snapshots[:-1]


@dataclass(frozen=True)
class Setting:
    """A kind of prompts, and the step of the training after which the model is; None is the end."""

    kind: str
    step: int | None = None

    @property
    def name(self) -> str:
        """The name for files."""
        return self.kind if self.step is None else f"{self.kind}-after-{self.step}"


SETTINGS = (
    *(Setting(kind) for kind in prompts.KINDS),
    *(Setting(kind, step) for step in PROGRESS for kind in ("half", "open")),
)


@dataclass(frozen=True)
class Choice:
    """The scales and layers of the rows of a kind of prompts, chosen on other prompts.

    Args:
        cfg: the scale of CFG of most rows.
        alone: the term without CFG.
        beside: the term beside CFG.
    """

    cfg: float
    alone: STG
    beside: STG

    @property
    def passes(self) -> float:
        """Forward passes a step of CFG with `beside`: its weak pass starts behind its layer."""
        (layer,) = explicit_layers(self.beside)
        return 2 + stack_cost(NUM_LAYERS, int(layer), self.beside.skip == "residual")


_MOCHI = Choice(4.0, STG((5,), 1.0), STG((5,), 1.0))
CHOICES = dict.fromkeys(prompts.KINDS, _MOCHI)
WEAK_STEP, WEAK_SCALE = PROGRESS[1], 1.0  # of Autoguidance
RECONSTRUCTED = Row(source="autoencoder")


def named_rows(setting: Setting) -> dict[str, Row]:
    """Return the rows of a table, by the names that the page has for them.

    Of an earlier state of the model these are real clips, no guidance, CFG and CFG with STG.
    """
    chosen = CHOICES[setting.kind]
    cfg = Row(chosen.cfg)
    few = {"real": REAL, "none": Row(), "cfg": cfg, "cfg+stg": replace(cfg, terms=(chosen.beside,))}
    if setting.step is not None:
        return few
    more = math.ceil(STEPS * chosen.passes / 2)
    others = {f"cfg-{scale:g}": Row(scale) for scale in CFG_SCALES if scale != chosen.cfg}
    return {
        "real": REAL,
        "autoencoder": RECONSTRUCTED,
        "none": few["none"],
        **others,
        "cfg": cfg,
        "stg": Row(terms=(chosen.alone,)),
        "cfg+stg": few["cfg+stg"],
        "autoguidance": replace(cfg, checkpoint=(WEAK_STEP, WEAK_SCALE)),
        "same-passes": replace(cfg, steps=more),
        "interval": replace(cfg, window=WINDOW),
    }


def rows(setting: Setting) -> tuple[Row, ...]:
    """Return the rows of a setting once each."""
    return tuple(dict.fromkeys(named_rows(setting).values()))
