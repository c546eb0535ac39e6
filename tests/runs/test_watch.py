"""What watches the pipeline while a video is made is kept beside the video, or made again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from skipguide.runs import Plan, Run
from skipguide.runs.jobs import Job
from skipguide.runs.local_engine import LocalEngine
from skipguide.runs.sweep import ClipPublished, SweepEstimate, sweep
from skipguide.runs.watch import Watched, watched_file
from support.drawn import Drawn, plan_of


@dataclasses.dataclass(frozen=True)
class Calls:
    """Counts the calls of the denoiser."""

    folder: str = "seen/calls"

    @contextlib.contextmanager
    def attach(self, pipe: Any) -> Iterator[Any]:
        count = 0

        def add(*_: Any) -> None:
            nonlocal count
            count += 1

        class Watcher:
            def finish(self) -> Watched:
                return Watched(f"{count} calls".encode(), 0.0)

        hook = pipe.transformer.register_forward_pre_hook(add)
        try:
            yield Watcher()
        finally:
            hook.remove()


class DrawnAndSeen(Drawn):
    """Draws, and says that it was watched."""

    def _watched(self, job: Job) -> dict[str, bytes]:
        return {} if job.watch is None else {job.watch.folder: b"seen"}


def made(plan: Plan, folder: Path, engine: Any) -> tuple[list[str], SweepEstimate]:
    events = list(sweep(plan, folder, engine))
    planned = events[0]
    assert isinstance(planned, SweepEstimate)
    return [e.job.key for e in events if isinstance(e, ClipPublished)], planned


def test_a_video_made_without_is_made_again(tmp_path: Path) -> None:
    folder, watch = tmp_path / "run", Calls()
    plain = plan_of(prompts=2, seeds=1, settings=1)
    watched = dataclasses.replace(plain, watch=watch)
    keys, _ = made(plain, folder, DrawnAndSeen(folder / "work"))
    assert len(keys) == 2
    again, planned = made(watched, folder, DrawnAndSeen(folder / "work"))
    assert again == keys
    assert all("without what was to be measured" in note for note in planned.notes)
    assert [(folder / watched_file(watch, key)).read_bytes() for key in keys] == [b"seen"] * 2
    assert made(watched, folder, DrawnAndSeen(folder / "work"))[0] == []
    # One whose record is gone is made again; one whose video is gone too.
    (folder / watched_file(watch, keys[0])).unlink()
    assert made(watched, folder, DrawnAndSeen(folder / "work"))[0] == keys[:1]


def test_a_ledger_that_is_gone_takes_over_what_has_all_its_files(tmp_path: Path) -> None:
    folder, watch = tmp_path / "run", Calls()
    watched = dataclasses.replace(plan_of(prompts=2, seeds=1, settings=1), watch=watch)
    keys, _ = made(watched, folder, DrawnAndSeen(folder / "work"))
    for path in folder.glob("ledger.sqlite*"):
        path.unlink()
    (folder / watched_file(watch, keys[1])).unlink()
    assert made(watched, folder, DrawnAndSeen(folder / "work"))[0] == keys[1:]


def test_the_pipeline_of_a_worker_is_watched(tmp_path: Path, tiny_mochi_dir: Path) -> None:
    """The frames are those of a video that nobody watched."""
    small = dict(height=32, width=32, num_frames=7, steps=3, max_sequence_length=16, device="cpu")
    plain = Plan.of(
        {"model": str(tiny_mochi_dir), "prompts": ["a"], "seeds": [3], **small,
         "settings": [{"name": "cfg", "guidance_scale": 4.5}]}
    )  # fmt: skip
    watch = Calls()
    hashes = []
    for name, plan in (("plain", plain), ("watched", dataclasses.replace(plain, watch=watch))):
        folder = tmp_path / name
        (key,), _ = made(plan, folder, LocalEngine(folder / "work"))
        with Run.open(folder) as run:
            hashes.append(run.clip(key).frames_sha256)
    assert hashes[0] == hashes[1]
    assert (tmp_path / "watched" / watched_file(watch, key)).read_bytes() == b"3 calls"


def test_a_given_pipeline_makes_the_videos(tmp_path: Path, tiny_mochi_dir: Path) -> None:
    from skipguide.models import loading
    from skipguide.runs.worker import LoadedPipeline

    pipe = loading.load_pipeline(str(tiny_mochi_dir))
    known = LoadedPipeline.of(pipe)
    again = LoadedPipeline.of(loading.load_pipeline(str(tiny_mochi_dir)))
    assert known.weights == again.weights
    small = dict(height=32, width=32, num_frames=7, steps=2, max_sequence_length=16)
    plan = Plan.of(
        {"model": "mine", "prompts": ["a"], **small,
         "settings": [{"name": "cfg", "guidance_scale": 4.5}]}
    )  # fmt: skip
    keys, _ = made(plan, tmp_path / "run", LocalEngine(tmp_path / "run" / "work", known))
    assert len(keys) == 1
    with torch.no_grad():
        next(pipe.transformer.parameters()).add_(1)
    assert LoadedPipeline.of(pipe).weights != known.weights  # other weights are other videos
    with pytest.raises(ValueError, match="model must be"):
        made(plan, tmp_path / "other", LocalEngine(tmp_path / "other" / "work"))
