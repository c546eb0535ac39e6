"""Trainings of the lab models cut short, for tests."""

from __future__ import annotations

import dataclasses

import pytest

from skipguide.lab import autoencoder, train, training_loop


def short_stages(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All stages of a training with two steps each, on 4 clips."""
    short = training_loop.Schedule(steps=2, learning_rate=1e-3)
    usual = {
        stage: dataclasses.replace(
            stage,
            run=lambda folder, device, stage=stage: stage.run(
                folder, device, 4 if stage.name == "latents" else short
            ),
        )
        for stage in train.STAGES[model]
    }  # fmt: skip
    monkeypatch.setitem(train.STAGES, model, tuple(usual.values()))
    monkeypatch.setattr(
        training_loop, "can_compile", lambda device: False
    )  # two steps are not worth it
    monkeypatch.setattr(autoencoder, "MEASURED_CLIPS", 4)
