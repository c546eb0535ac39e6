"""Sweeps on a real Ray of two workers on this machine: `make test-ray`, where ray is installed."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from skipguide.files import video
from skipguide.runs import Plan, Run
from skipguide.runs.engine import JobFailed, JobStarted
from skipguide.runs.local_engine import LocalEngine
from skipguide.runs.sweep import ClipPublished, SweepEstimate, sweep
from support.drawn import plan_of, swept

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

    engine = RayEngine("local", workers=2)
    yield engine
    engine.close()


def plan(model: Path, seeds: int, **more: Any) -> Plan:
    content = {
        "model": str(model),
        "prompts": ["a red star", "a blue square"],
        "seeds": list(range(seeds)),
    }
    return Plan.of({**content, "settings": SETTINGS, **SMALL, **more})


def kill(engine: Any, worker: Any) -> None:
    os.kill(engine._ray.get(worker.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)


def test_a_sweep_whose_worker_is_killed_loses_nothing(
    tmp_path: Path, tiny_mochi_dir: Path, engine: Any
) -> None:
    wanted = plan(tiny_mochi_dir, 4, save_latents=True)
    planned, *happenings = _killing(sweep(wanted, tmp_path / "ray", engine), engine, after=3)
    assert isinstance(planned, SweepEstimate)
    assert (planned.missing, planned.workers) == (16, 2)
    assert [h for h in happenings if isinstance(h, JobFailed)] == []
    assert len({h.job.key for h in happenings if isinstance(h, ClipPublished)}) == 16
    assert (
        len([h for h in happenings if isinstance(h, JobStarted)]) > 16
    )  # what the lost worker had was given to another
    plain = tmp_path / "plain"
    list(sweep(wanted, plain, LocalEngine(plain / "work")))
    with Run.open(tmp_path / "ray") as ours, Run.open(plain) as theirs:
        assert ours.counts() == {"pending": 0, "running": 0, "done": 16, "failed": 0}
        frames = [
            {clip.key: clip.frames_sha256 for clip in run.clips("done")} for run in (ours, theirs)
        ]
        assert frames[0] == frames[1]  # the engine is of no consequence
        assert max(clip.attempts for clip in ours.clips()) == 2
        assert all(
            clip.video and video.read(clip.video)[0].shape == (7, 32, 32, 3)
            for clip in ours.clips()
        )
        assert all(clip.latents and clip.latents.is_file() for clip in ours.clips())


def _killing(happenings: Iterator[Any], engine: Any, after: int) -> Iterator[Any]:
    """Pass on what happens; when so many jobs have been begun, one worker is killed in the midst of
    its job."""
    begun = 0
    for happening in happenings:
        yield happening
        begun += isinstance(happening, JobStarted)
        if begun == after and engine._fleet.busy:
            begun += 1
            kill(engine, next(iter(engine._fleet.busy.values()))[0])


def test_a_job_that_kills_every_worker_is_given_up(tmp_path: Path, engine: Any) -> None:
    def deadly(number: int) -> int:
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with pytest.raises(RuntimeError, match="a worker was lost 3 times with the same item"):
        list(engine.map(deadly, [0, 1]))
    assert sorted(engine.map(deadly, [0, 2, 3])) == [0, 2, 3]


def test_what_a_model_refuses_comes_back_as_it_was_said(
    tmp_path: Path, tiny_mochi_dir: Path, engine: Any
) -> None:
    wrong = plan(tiny_mochi_dir, 1, settings=[{"name": "deep", "stg": {"layers": [99]}}])
    with pytest.raises(ValueError, match=r"setting 'deep' for .* must be from 0 to 3 .* got 99"):
        list(sweep(wrong, tmp_path / "run", engine))
    assert not (tmp_path / "run").exists()


def test_accumulators_of_parts_merge_to_that_of_the_whole(tmp_path: Path, engine: Any) -> None:
    def sums(
        contents: list[bytes],
    ) -> dict[str, np.ndarray]:  # in here, for workers cannot import a test
        total = np.zeros(3)
        for content in contents:
            with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
                file.write(content)
                file.flush()
                total += video.read(Path(file.name))[0].sum((0, 1, 2))
        return {"total": total, "count": np.array(len(contents))}

    swept(tmp_path, plan_of(2, 3, 1))
    with Run.open(tmp_path, writable=True) as run:
        clips = [clip.video.read_bytes() for clip in run.clips("done") if clip.video]
        parts = [clips[:2], clips[2:4], clips[4:]]
        merged: dict[str, np.ndarray] = {}
        for state in engine.map(sums, parts):
            merged = {name: merged.get(name, 0) + value for name, value in state.items()}
        whole = next(iter(LocalEngine(tmp_path).map(sums, [clips])))
        assert {name: value.tolist() for name, value in merged.items()} == {
            n: v.tolist() for n, v in whole.items()
        }
        setting = run.settings()[0].id
        assert run.state(setting, "fvd / judge") == ({}, [])
        run.keep_state(setting, "fvd / judge", merged, [clip.key for clip in run.clips()])
        state, keys = run.state(setting, "fvd / judge")
        assert state["total"].tolist() == whole["total"].tolist()
        assert keys == sorted(clip.key for clip in run.clips())


def test_an_engine_goes_on_after_a_sweep_that_was_left(
    tmp_path: Path, tiny_mochi_dir: Path, engine: Any
) -> None:
    wanted = plan(tiny_mochi_dir, 2)
    sweeping = sweep(wanted, tmp_path / "run", engine)
    assert any(
        isinstance(happening, ClipPublished) for happening in sweeping
    )  # stops at the first one
    sweeping.close()
    with Run.open(tmp_path / "run") as run:
        assert run.counts()["running"] == 0
        assert 0 < run.counts()["done"] < 8
    again = list(sweep(wanted, tmp_path / "run", engine))
    with Run.open(tmp_path / "run") as run:
        assert run.counts()["done"] == 8
        assert len([h for h in again if isinstance(h, ClipPublished)]) < 8


def test_ray_accepts_the_cluster_of_the_examples() -> None:
    from ray.autoscaler._private.util import (  # type: ignore[import-not-found]
        prepare_config,
        validate_config,
    )  # pyright: ignore[reportMissingImports]

    example = Path(__file__).parents[2] / "examples" / "clusters" / "aws.yaml"
    config = prepare_config(yaml.safe_load(example.read_text(encoding="utf-8")))
    validate_config(config)
    assert config["available_node_types"]["gpu"]["resources"]["GPU"] == 1


def test_more_workers_than_there_are_processors_are_refused() -> None:
    from skipguide.runs.ray_engine import RayEngine

    with pytest.raises(
        ValueError, match=r"each worker needs a CPU of its own, but got --workers 9999"
    ):
        RayEngine("local", 9999)


def test_a_tuning_on_ray_finds_what_one_process_finds(
    tmp_path: Path, tiny_mochi_dir: Path, engine: Any
) -> None:
    """The scan runs on the workers, and its records and clips are those of one process."""
    from skipguide.runs.prompt_rows import Prompt
    from skipguide.tuning.objective.objective import ObjectiveSpec
    from skipguide.tuning.options import TuneOptions
    from skipguide.tuning.run import Tuning

    words = {"steps" if name == "num_inference_steps" else name: v for name, v in SMALL.items()}
    prompts = tuple(Prompt(f"a red star {i}") for i in range(6))
    asked = TuneOptions(
        str(tiny_mochi_dir), prompts, words, passes=600.0, guidance_scales=(4.5,),
        objective=ObjectiveSpec(metrics=(("temporal_flickering", 1.0),)),
    )  # fmt: skip

    def tuned(folder: Path, made: Any) -> Any:
        steps = Tuning(asked, folder, made).run()
        while True:
            try:
                next(steps)
            except StopIteration as ended:
                return ended.value

    on_ray = tuned(tmp_path / "ray", engine)
    here = tuned(tmp_path / "here", LocalEngine(tmp_path / "here" / "work"))
    assert on_ray.answer.verdict
    assert here.answer.verdict
    frames = []
    for name in ("ray", "here"):
        with Run.open(tmp_path / name) as run:
            frames.append({clip.key: clip.frames_sha256 for clip in run.clips("done")})
    # A search can go another way, for the values are read from the mp4, whose coding may differ.
    both = {*frames[0]} & {*frames[1]}
    assert len(both) > 20
    assert all(frames[0][key] == frames[1][key] for key in both)
    first, second = (
        {path.name: path.stat().st_size for path in (tmp_path / name / "tune" / "scan").iterdir()}
        for name in ("ray", "here")
    )
    assert first == second
    np.testing.assert_allclose(on_ray.map.means["ratio"], here.map.means["ratio"], rtol=1e-5)


def test_a_cluster_that_loses_its_only_machine_says_so(engine: Any) -> None:
    """The last test here: the engine's cluster is gone after it."""

    def deadly(_: int) -> None:
        os.kill(
            os.getppid(), signal.SIGKILL
        )  # Ray's own process of this machine; it takes the workers with it
        time.sleep(600)

    with pytest.raises(ValueError, match="All Ray nodes were lost"):
        list(engine.map(deadly, [0]))
