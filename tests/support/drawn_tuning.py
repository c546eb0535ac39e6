"""A model without weights to tune: how good each setting is, is known, and so is what is best.

Clips are grey: the brighter the better. How bright is the sum of what is known of the setting, of
what is drawn for the prompt (the same in all settings), and of what is drawn for both. All the rest
of a tuning is the real one."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from skipguide.generate.settings import GenerationSettings
from skipguide.method.terms import STG, explicit_layers
from skipguide.runs.jobs import Job
from skipguide.runs.prompt_rows import Prompt
from skipguide.tuning.facts import Facts
from skipguide.tuning.objective.objective import ObjectiveSpec
from skipguide.tuning.options import TuneOptions
from skipguide.tuning.scan.record import LEVELS, Cell, ScanRecord, ScanState
from support.drawn import Drawn

DEPTH = 8
CELLS = tuple(Cell(f"blocks:{k}", skip) for k in range(DEPTH) for skip in ("residual", "attention"))


def grey(frames: np.ndarray, prompt: str | None, fps: float | None) -> float:
    """The brightness of a clip, which is what the drawn model is to be tuned for."""
    return float(frames.mean() / 255)


def options(count: int = 24, **more: Any) -> TuneOptions:
    """Options of a tuning of the drawn model."""
    prompts = tuple(Prompt(f"prompt {i}") for i in range(count))
    common = {"height": 16, "width": 16, "num_frames": 3, "steps": 10, "fps": 8}
    spec = more.pop("objective", ObjectiveSpec(metrics=((f"{__name__}:grey", 1.0),)))
    scales = more.pop("guidance_scales", (4.0,))
    return TuneOptions("lab-mochi", prompts, common, objective=spec, guidance_scales=scales, **more)


@dataclasses.dataclass
class DrawnModel(Drawn):
    """An engine of the drawn model.

    Args:
        gains: what a layer adds when it is skipped at scale 2 over the whole run, by its address.
        of_cfg: what halving the guidance scale adds.
        noise: standard deviation of what is drawn for setting and prompt.
        killed_after: the process ends after so many clips, as if it was killed.
    """

    gains: dict[str, float] = dataclasses.field(default_factory=dict)
    of_cfg: float = -0.1
    noise: float = 0.01
    made: int = 0

    def inspect(self, generation: GenerationSettings, function: Callable[[Any], Any]) -> Facts:
        return Facts("MochiPipeline", "mochi", "Model", DEPTH, 64, "", len(CELLS), 8.0)

    def _drawn(self, job: Job, shape: tuple[int, ...]) -> np.ndarray:
        self.made += 1
        level = 0.4 + self.quality(job.generation) + _draw(job.generation.prompt) * 0.05
        both = f"{job.generation.prompt} {job.setting}"
        level += _draw(both) * self.noise
        return np.full(shape, round(255 * min(max(level, 0), 1)), np.uint8)

    def quality(self, settings: GenerationSettings) -> float:
        """What is known of a setting, over CFG alone at scale 4."""
        found = 0.0 if settings.guidance_scale == 4 else self.of_cfg
        for term in settings.request.terms:
            assert isinstance(term, STG)
            (layer,) = explicit_layers(term)
            (scale,) = term.scales(1)
            best = 1 - (np.log2(scale) - 1) ** 2 / 4
            whole = 1.0 if term.skip == "residual" else 0.5
            found += whole * self.gains.get(str(layer), -0.05) * best * (term.stop - term.start)
        return found

    def _watched(self, job: Job) -> dict[str, bytes]:
        if job.watch is None:
            return {}
        return {job.watch.folder: record(job.key).to_bytes()}


def _draw(text: str | None) -> float:
    """A number drawn for a text, of mean 0 and standard deviation 1."""
    digest = hashlib.sha256(str(text).encode()).digest()
    return float(np.random.default_rng(int.from_bytes(digest[:8], "big")).normal())


def record(key: str) -> ScanRecord:
    """A scan in which the layers near the sixth push most finely, and least along c."""
    states = tuple(
        ScanState(i, 10, level, level, "transformer", True) for i, level in enumerate(LEVELS)
    )
    random = np.random.default_rng(int(hashlib.sha256(key.encode()).hexdigest()[:8], 16))
    places = np.array([float(cell.layer.partition(":")[2]) for cell in CELLS])
    shape = (len(CELLS), len(states))
    near = np.repeat(1 - abs(places[:, None] - 6) / 10, len(states), 1)
    hf = near + random.normal(0, 0.02, shape)
    values = {
        "ratio": np.full(shape, 0.2), "hf": hf, "cos_c": -near,
        "cos_cfg": np.full(shape, 0.1),
    }  # fmt: skip
    gram = np.repeat(np.eye(len(CELLS))[:, :, None], len(states), 2)
    costs = (DEPTH - 1 - places) / DEPTH
    each = np.ones(len(states))
    return ScanRecord(
        family="mochi", denoiser="Model", depth=DEPTH, width=64, outputs=("video",),
        shape=(1, 4, 1, 2, 2), cells=CELLS, num_places=DEPTH, states=states, places=places,
        costs=costs, values=values, gram=gram, forwards=8 * each, strong_passes=each,
        seconds_strong=0.001 * each, seconds_weak=0.004 * each,
    )  # fmt: skip


def engine(folder: Path, **known: Any) -> DrawnModel:
    """Return an engine for a run folder."""
    return DrawnModel(folder / "work", **known)
