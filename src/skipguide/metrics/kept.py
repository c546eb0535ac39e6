"""Keep in a run, beside the number of a set, its videos and its replicates.

With the replicates of two settings their difference has an interval, though the features are gone
(`skipguide.stats.paired.Replicates`). The names of the videos say whether two settings were
measured on the same prompts, and whether videos have been made since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from skipguide.metrics.features import REFERENCE, Readings
from skipguide.runs import Run
from skipguide.runs.run import REPLICATES
from skipguide.stats.paired import Replicates

_SET = "replicates "  # before the number of a set


@dataclass(frozen=True)
class KeptSet:
    """The videos that a number of a set is of, and its replicates.

    Args:
        keys: of the clips.
        reference: a hash of what the reference videos are; equal ones can be compared.
        replicates: None if there were too few prompts.
    """

    keys: frozenset[str]
    reference: str
    replicates: Replicates | None


def hash_reference(readings: Readings, kind: str) -> str:
    """Return a hash of the names and features of the reference videos; "" without any."""
    names = readings.names(REFERENCE, kind)
    if not names:
        return ""
    features = readings.stack(REFERENCE, kind, names).float().contiguous().numpy()
    return hashlib.sha256("\n".join(names).encode() + features.tobytes()).hexdigest()


def keep(
    run: Run, setting: int, metric: str, value: float, without: Iterable[np.ndarray],
    keys: Iterable[str], reference: str,
) -> None:  # fmt: skip
    """Keep the replicates of a metric of a setting in a run that is open for writing.

    Args:
        without: the values without each group, of the generated and the reference videos.
        reference: as `hash_reference` returns it.
    """
    state = {f"{_SET}{i}": np.asarray(values, np.float64) for i, values in enumerate(without)}
    digest = np.frombuffer(bytes.fromhex(reference), np.uint8)
    state |= {"value": np.asarray([value], np.float64), "reference": digest}
    run.keep_state(setting, _state_name(metric), state, keys)


def load(run: Run, setting: int, metric: str, value: float) -> KeptSet | None:
    """Return what `keep` kept with a value; None if nothing is kept, or it is of another value."""
    state, keys = run.state(setting, _state_name(metric))
    if not state or float(state["value"][0]) != value:
        return None
    without = tuple(state[name] for name in sorted(state) if name.startswith(_SET))
    replicates = Replicates(value, without) if without else None
    return KeptSet(frozenset(keys), bytes(state["reference"]).hex(), replicates)


def _state_name(metric: str) -> str:
    return metric + REPLICATES
