"""The training loop: it learns, it resumes exactly, and it leaves nothing half-written."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from skipguide.lab import training_loop

SCHEDULE = training_loop.Schedule(
    steps=60, learning_rate=0.02, warmup=5, ema=0.9, checkpoint_minutes=0
)


def problem() -> tuple[torch.nn.Module, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        x = torch.randn(32, 4, generator=torch.Generator().manual_seed(step))
        error = (model(x) - x[:, :2] * 0.5).square().mean()
        return error, {"loss": error.item()}

    return model, loss


def test_learns(tmp_path: Path) -> None:
    model, loss = problem()
    seen = list(training_loop.fit(model, loss, SCHEDULE, tmp_path / "a.ckpt"))
    assert [p.step for p in seen] == list(range(1, 61))
    assert seen[-1].metrics["loss"] < 0.1 * seen[0].metrics["loss"]
    assert not model.training


def test_resumes_exactly(tmp_path: Path) -> None:
    whole, loss = problem()
    list(training_loop.fit(whole, loss, SCHEDULE, tmp_path / "whole.ckpt"))
    parts, loss = problem()
    for progress in training_loop.fit(parts, loss, SCHEDULE, tmp_path / "parts.ckpt"):
        if progress.step == 25:
            break
    again, loss = problem()
    torch.nn.init.zeros_(again.get_submodule("0").weight)  # type: ignore[arg-type]
    resumed = list(training_loop.fit(again, loss, SCHEDULE, tmp_path / "parts.ckpt"))
    assert resumed[0].step == 26
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_after_some_steps_are_kept(tmp_path: Path) -> None:
    """They are the averaged ones, which the last step gives to the model."""
    schedule = dataclasses.replace(SCHEDULE, snapshots=(20, 60))
    model, loss = problem()
    average: dict[str, torch.Tensor] = {}
    for progress in training_loop.fit(model, loss, schedule, tmp_path / "a.ckpt"):
        if progress.step == 20:
            average = torch.load(tmp_path / "a.ckpt")["average"]
    early = load_file(training_loop.snapshot_path(tmp_path / "a.ckpt", 20))
    last = load_file(training_loop.snapshot_path(tmp_path / "a.ckpt", 60))
    for name, value in model.state_dict().items():
        assert torch.equal(early[name], average[name].half())
        assert torch.equal(last[name], value.half())
        assert not torch.equal(early[name], last[name])


def test_a_failed_save_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, loss = problem()
    training = training_loop.fit(model, loss, SCHEDULE, tmp_path / "a.ckpt")
    next(training)
    good = (tmp_path / "a.ckpt").read_bytes()

    def fail(state: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        next(training)
    assert (tmp_path / "a.ckpt").read_bytes() == good


def test_what_a_killed_process_left_is_removed_later(tmp_path: Path) -> None:
    """A folder of an hour ago, but nothing that another process writes now."""
    old, new = tmp_path / ".model.1.part", tmp_path / ".model.2.part"
    for left in (old, new):
        left.mkdir()
        (left / "weights").write_bytes(b"half")
    os.utime(old, (0, 0))
    with training_loop.atomic_path(tmp_path / "model") as part:
        part.write_bytes(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "model"]
    with contextlib.suppress(KeyError), training_loop.atomic_path(tmp_path / "model") as part:
        part.write_bytes(b"half")
        raise KeyError
    assert (tmp_path / "model").read_bytes() == b"whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "model"]


def test_orthogonal_gives_singular_values_near_one() -> None:
    for shape in ((8, 40), (40, 8), (16, 16)):
        values = torch.linalg.svdvals(
            training_loop.orthogonalize(
                torch.randn(shape, generator=torch.Generator().manual_seed(0))
            ).float()
        )
        assert 0.4 < values.min() <= values.max() < 1.5


def test_schedule_rises_holds_and_falls() -> None:
    schedule = training_loop.Schedule(steps=100, learning_rate=1.0, warmup=10, decay=0.5)
    assert schedule.factor(0) == pytest.approx(0.1)
    assert schedule.factor(30) == 1.0
    assert schedule.factor(75) == pytest.approx(0.5)
    assert schedule.factor(99) < 0.01


def test_rate_falls_to_zero_in_every_cycle_and_begins_again() -> None:
    once = training_loop.Schedule(steps=200, learning_rate=1.0, warmup=10, decay=0.5)
    twice = training_loop.Schedule(
        steps=300, learning_rate=1.0, warmup=10, decay=0.5, restarts=(200,)
    )
    assert [twice.factor(step) for step in range(200)] == [once.factor(step) for step in range(200)]
    assert [once.factor(step) for step in (0, 9, 100)] == pytest.approx([0.1, 1.0, 1.0])
    assert once.factor(150) == pytest.approx(0.5)  # half a cosine, half way
    assert once.factor(199) < 1e-3
    assert [twice.factor(step) for step in (200, 209, 250)] == pytest.approx([0.1, 1.0, 1.0])
    assert twice.factor(275) == pytest.approx(0.5)
    assert twice.factor(299) < 2e-3
