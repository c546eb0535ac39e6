"""The scan of one video as plain data: what was asked for, and what each cell's push is like."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from skipguide.method import parsing
from skipguide.method.protocols import PlainData, ReadOnlyData

Floats = NDArray[np.float64]

# Shares of noise in x_t at which a trajectory is looked at.
LEVELS = (0.95, 0.8, 0.6, 0.3)
# Quantities of a push c - p; those of a sound have the prefix "audio_".
QUANTITIES = ("ratio", "hf", "cos_c", "cos_cfg")
_FORMAT = "skipguide scan 1"
_ARRAYS = (
    "places", "costs", "gram", "forwards", "strong_passes", "seconds_strong", "seconds_weak"
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
    """One way to weaken a model: a layer, a kind of skip, and an axis.

    Args:
        layer: as a user writes it: "blocks:8", or "8" for the spatial and the temporal block of
            that number where these run in turn.
        skip: one of `method.perturbations.PERTURBATIONS`.
        axis: "spatial" or "temporal"; None where attention is joint, and for both axes together.
    """

    layer: str
    skip: str
    axis: str | None = None

    @property
    def name(self) -> str:
        """The cell in words: "blocks:8 residual", "blocks:8 attention spatial"."""
        return " ".join(filter(None, (self.layer, self.skip, self.axis)))

    @property
    def layers(self) -> list[int | str]:
        """The layer as `STG(layers=...)` takes it."""
        return list(parsing.parse_layers(self.layer))

    def to_dict(self) -> PlainData:
        """Return the cell as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, row: ReadOnlyData) -> Cell:
        """Read what `to_dict` wrote; other entries are left alone."""
        return cls(row["layer"], row["skip"], row.get("axis"))


@dataclasses.dataclass(frozen=True)
class ScanOptions:
    """The cells of a scan, and the places on a trajectory where it looks.

    Args:
        skips: kinds of skip; None for "residual" and, where the family has it, "attention".
        axes: None for both axes together and each of a factorized family. In a tuple None stands
            for both together.
        layers: as `STG(layers=...)` takes them; None for all.
        levels: shares of noise in x_t, each above 0 and at most 1. That is sigma in flow matching,
            sqrt(1 - alpha_bar) in DDPM, and sigma / sqrt(1 + sigma^2) in EDM.
        max_bytes: of states kept for the weak passes at one time; None for a third of what is free
            on the device when a scan begins.

    Raises:
        ValueError: for a level out of range, or an empty list.
    """

    skips: tuple[str, ...] | None = None
    axes: tuple[str | None, ...] | None = None
    layers: tuple[str | int, ...] | None = None
    levels: tuple[float, ...] = LEVELS
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("skips", "axes", "layers", "levels"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(given))
                if not given:
                    raise ValueError(f"{name} of a scan must name at least one, but got none.")
        wrong = [level for level in self.levels if not 0 < level <= 1]
        if wrong:
            raise ValueError(
                "levels of a scan must be shares of noise, above 0 and at most 1, but got"
                f" {', '.join(map(str, wrong))}. The usual are {', '.join(map(str, LEVELS))}."
            )
        if self.max_bytes is not None and self.max_bytes <= 0:
            raise ValueError(
                f"max_bytes of a scan must be above 0, but got {self.max_bytes}. Leave it out."
            )

    def to_dict(self) -> PlainData:
        """Return the options as plain data."""
        row = dataclasses.asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in row.items()}

    @classmethod
    def from_dict(cls, row: ReadOnlyData) -> ScanOptions:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: as the class itself.
        """
        given: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in row.items()
        }
        return cls(**given)


@dataclasses.dataclass(frozen=True)
class ScanState:
    """One place on a trajectory.

    Args:
        step: of the run, from 0.
        num_steps: of the run.
        wanted: the share of noise that was asked for.
        found: that of x_t at this step.
        denoiser: the pipeline's attribute that was called: "transformer", "transformer_2", "unet".
        has_cfg: whether u was there.
    """

    step: int
    num_steps: int
    wanted: float
    found: float
    denoiser: str
    has_cfg: bool


@dataclasses.dataclass(frozen=True, eq=False)
class ScanRecord:
    """The scan of one call of a pipeline.

    Args:
        family, denoiser: name of the row, and of the denoiser's class.
        depth, width: blocks of the first stack (layers of a UNet), and the size of a token.
        outputs: what the denoiser predicts: "video", and "audio" after it.
        shape: of the prediction for the video, as the denoiser returns it.
        cells: what was weakened.
        num_places: how many layers run one after the other; `places` counts them.
        states: where on the trajectory.
        places: `(cells,)`: the layer's place among them, from 0.
        costs: `(cells,)`: of a weak pass that shares its prefix, in forward passes.
        values: by quantity `(cells, states)`: "ratio" |c - p| / |c|, "hf" the share of c - p in
            the upper half of the spatial frequencies, "cos_c" cos(c - p, c), "cos_cfg"
            cos(c - p, c - u); the mean over the samples of a batch. nan where there is none.
        gram: `(cells, cells, states)`: cosines of the pushes among each other.
        forwards: `(states,)`: forward passes spent on weak ones, by floating point operations.
        strong_passes: `(states,)`: conditional passes of the scan: one, or one for each group of
            layers where the states of all are more than may be kept.
        seconds_strong, seconds_weak: `(states,)`: of the conditional passes of the scan, and of the
            weak ones.
    """

    family: str
    denoiser: str
    depth: int
    width: int
    outputs: tuple[str, ...]
    shape: tuple[int, ...]
    cells: tuple[Cell, ...]
    num_places: int
    states: tuple[ScanState, ...]
    places: Floats
    costs: Floats
    values: Mapping[str, Floats]
    gram: Floats
    forwards: Floats
    strong_passes: Floats
    seconds_strong: Floats
    seconds_weak: Floats

    def to_bytes(self) -> bytes:
        """Return the record as a safetensors file: arrays, and the rest as its metadata."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        values = {f"values.{name}": np.ascontiguousarray(v) for name, v in self.values.items()}
        facts = {
            "family": self.family,
            "denoiser": self.denoiser,
            "depth": self.depth,
            "width": self.width,
            "outputs": self.outputs,
            "shape": self.shape,
            "num_places": self.num_places,
            "cells": [cell.to_dict() for cell in self.cells],
            "states": [dataclasses.asdict(state) for state in self.states],
        }
        metadata = {"format": _FORMAT, "facts": json.dumps(facts, sort_keys=True)}
        return safetensors.numpy.save({**arrays, **values}, metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> ScanRecord:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: for something else, or a file that is cut off.
        """
        metadata = _metadata(data)
        try:
            arrays = safetensors.numpy.load(data)
            record = cls._from_parts(arrays, json.loads(metadata["facts"]))
            record.check_shapes()
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"a scan record must be whole, but {error}. Scan again.") from error
        return record

    def check_shapes(self) -> None:
        """Check that there is a number for each cell and state.

        Raises:
            ValueError: if there is not.
        """
        cells, states = len(self.cells), len(self.states)
        wanted = {"places": (cells,), "costs": (cells,), "gram": (cells, cells, states)}
        wanted |= dict.fromkeys(_ARRAYS[3:], (states,))
        for name, shape in wanted.items():
            if (came := getattr(self, name).shape) != shape:
                raise ValueError(f"its {name} are {came} and not {shape}")
        if missing := [name for name in QUANTITIES if name not in self.values]:
            raise ValueError(f"it has no {missing[0]}")
        for name, array in self.values.items():
            if array.shape != (cells, states):
                raise ValueError(f"its {name} is {array.shape} and not {(cells, states)}")

    @classmethod
    def _from_parts(cls, arrays: Mapping[str, Floats], facts: PlainData) -> ScanRecord:
        prefix = "values."
        cells, states = facts.pop("cells"), facts.pop("states")
        named: dict[str, Any] = {**facts, **{name: arrays[name] for name in _ARRAYS}}
        named |= {"outputs": tuple(facts["outputs"]), "shape": tuple(facts["shape"])}
        return cls(
            cells=tuple(map(Cell.from_dict, cells)),
            states=tuple(ScanState(**row) for row in states),
            values={
                name.removeprefix(prefix): array
                for name, array in sorted(arrays.items(), key=_order)
                if name.startswith(prefix)
            },
            **named,
        )


def _order(named: tuple[str, Any]) -> tuple[bool, int]:
    """Return a sorting key of quantities: as in QUANTITIES, those of a sound behind."""
    quantity = named[0].removeprefix("values.")
    own = quantity.removeprefix("audio_")
    return quantity != own, QUANTITIES.index(own) if own in QUANTITIES else -1


def _metadata(data: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file: its header is JSON behind 8 bytes of length."""
    try:
        length = int.from_bytes(data[:8], "little")
        found = dict(json.loads(data[8 : 8 + length])["__metadata__"])
    except (ValueError, KeyError, TypeError, RecursionError):
        found = {}
    if found.get("format") != _FORMAT:
        raise ValueError(
            f"a scan record must be a file of the format {_FORMAT!r}, but got"
            f" {found.get('format', 'something else')!r}. Scan again."
        )
    return found


def check_alike(records: Sequence[ScanRecord]) -> None:
    """Check that records are of one model, one set of cells and one list of levels.

    Raises:
        ValueError: for none, or records that differ.
    """
    if not records:
        raise ValueError("a map needs the scan of one prompt or more, but got none.")
    first = records[0]
    for name in ("family", "denoiser", "depth", "width", "cells"):
        came = {repr(getattr(record, name)): None for record in records}
        if len(came) > 1:
            raise ValueError(
                f"the records of a map must have the same {name}, but these have"
                f" {len(came)} different ones. Scan all prompts with one model and one list of"
                " layers, skips and axes."
            )
    levels = [state.wanted for state in first.states]
    if any([state.wanted for state in record.states] != levels for record in records):
        raise ValueError(
            "the records of a map must be of the same levels of noise, but these are not. Scan all"
            " prompts with the same levels and steps."
        )
