"""Sweeps on a real Ray whose workers are two processes each: `make test-ray`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skipguide.runs import Plan, Run
from skipguide.runs.engine import JobFailed, JobStarted
from skipguide.runs.local_engine import LocalEngine
from skipguide.runs.sweep import ClipPublished, SweepEstimate, sweep

pytest.importorskip("ray")

SMALL = dict(
    height=32, width=32, num_frames=7, num_inference_steps=4, max_sequence_length=16, device="cpu"
)
SETTINGS = [
    {"name": "cfg", "guidance_scale": 4.5},
    {"name": "stg", "stg": {"layers": [2], "scale": 1.0}},
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    from skipguide.runs.ray_engine import RayEngine

    engine = RayEngine("local", workers=1, gpus_per_clip=2)
    yield engine
    engine.close()


def plan(model: Path, seeds: int, settings: Any = SETTINGS, **more: Any) -> Plan:
    content = {"model": str(model), "prompts": ["a red star"], "seeds": list(range(seeds))}
    return Plan.of({**content, "settings": settings, **SMALL, **more})


def assistant(engine: Any) -> int:
    """Return the process that helps the worker."""
    worker = next(iter(engine._fleet.places))
    others = worker.__ray_call__.remote(lambda own: own._worker._assistants)
    (one,) = engine._ray.get(others)
    return engine._ray.get(one.__ray_call__.remote(lambda _: os.getpid()))


def test_two_processes_per_clip_make_what_one_makes(
    tmp_path: Path, tiny_mochi_dir: Path, engine: Any
) -> None:
    wanted = plan(tiny_mochi_dir, 3, save_latents=True)
    planned, *happenings = sweep(wanted, tmp_path / "ray", engine)
    assert isinstance(planned, SweepEstimate)
    assert (planned.missing, planned.workers) == (6, 1)
    assert [h for h in happenings if isinstance(h, JobFailed)] == []
    assert frames(tmp_path / "ray") == frames_of_one_process(wanted, tmp_path / "plain")
    worker = next(iter(engine._fleet.places))

    def count_divided(_: Any) -> int:  # in here, for workers cannot import a test
        from skipguide.pipeline import branch_group

        return sum(branch_group._made.values())

    divided = engine._ray.get(worker.__ray_call__.remote(count_divided))
    assert divided == 3  # the guided clips, and none of plain CFG


def frames(folder: Path) -> dict[str, str | None]:
    with Run.open(folder) as run:
        counts = run.counts()
        assert counts["done"] == sum(counts.values()) > 0
        return {clip.key: clip.frames_sha256 for clip in run.clips("done")}


def frames_of_one_process(wanted: Plan, folder: Path) -> dict[str, str | None]:
    list(sweep(wanted, folder, LocalEngine(folder / "work")))
    return frames(folder)


def test_a_clip_whose_second_process_is_killed_is_made_by_others(
    tmp_path: Path, tiny_mochi_dir: Path, engine: Any
) -> None:
    wanted = plan(tiny_mochi_dir, 3, SETTINGS[1:], num_inference_steps=40)
    begun, first = [], None
    for happening in sweep(wanted, tmp_path / "ray", engine):
        assert not isinstance(happening, JobFailed), happening.error
        if isinstance(happening, JobStarted):
            begun.append(happening.job.key)
        if isinstance(happening, ClipPublished) and first is None:
            first = assistant(engine)  # which is at nothing, or at the second clip
            os.kill(first, signal.SIGKILL)
    assert len(begun) == 4
    assert assistant(engine) != first
    assert frames(tmp_path / "ray") == frames_of_one_process(wanted, tmp_path / "plain")
    with Run.open(tmp_path / "ray") as run:
        assert sorted(clip.attempts for clip in run.clips()) == [1, 1, 2]


def test_what_cannot_be_divided_is_refused_before_any_clip(
    tmp_path: Path, tiny_mochi_dir: Path, engine: Any
) -> None:
    wrong = [{"name": "short", "stg": {"layers": [2]}, "budget": 1.5, "guidance_scale": 4.5}]
    with pytest.raises(ValueError, match="setting 'short' for --gpus-per-clip: parallel= runs u"):
        list(sweep(plan(tiny_mochi_dir, 1, wrong), tmp_path / "run", engine))
    assert not (tmp_path / "run").exists()


def test_more_processes_than_there_are_processors_are_refused() -> None:
    from skipguide.runs.ray_engine import RayEngine

    with pytest.raises(ValueError, match="got --workers 1 and --gpus-per-clip 999 for"):
        RayEngine("local", None, 999)
