"""What was computed before stays what it was: latents, the keys of videos in a ledger, and a video
that is made again from its record. tests/support/pinned has them.

An intended change of results makes new pins (see there) and has a decision record. Keys and records
must never change, because people keep their videos."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.files import video
from skipguide.runs import Plan, Run
from skipguide.runs.local_engine import LocalEngine
from skipguide.runs.sweep import sweep
from support import pinned

ROOT = Path(__file__).parents[2]
KEYS = json.loads((pinned.FOLDER / "keys.json").read_text())
CASES = [(name, title) for name, settings in pinned.SETTINGS.items() for title in settings]


# --- latents --------------------------------------------------------------------------------------


@functools.cache
def then() -> dict[str, torch.Tensor]:
    return load_file(pinned.LATENTS)


@functools.cache
def now(name: str) -> dict[str, torch.Tensor]:
    return pinned.compute(name)


def atol_of(plain: torch.Tensor) -> float:
    """What processors' ways of summing leave: measured 1e-4 of 8, with and without AVX-512."""
    return 2e-5 * max(1.0, float(plain.abs().max()))


def skip_if_diffusers_computes_otherwise(name: str) -> None:
    """Another version of diffusers may change a pipeline without guidance, and then nothing can be
    said; with the version of the pins nothing is skipped."""
    plain = then()[f"{name}/plain"]
    same = torch.allclose(now(name)["plain"], plain, atol=atol_of(plain), rtol=1e-4)
    if not same and diffusers.__version__ != KEYS["versions"]["diffusers"]:
        pytest.skip(f"diffusers {diffusers.__version__} runs {name} otherwise without guidance")


@pytest.mark.parametrize(("name", "title"), CASES)
def test_latents_are_those_of_the_pins(name: str, title: str) -> None:
    skip_if_diffusers_computes_otherwise(name)
    plain, pin = then()[f"{name}/plain"], then()[f"{name}/{title}"]
    torch.testing.assert_close(now(name)["plain"], plain, atol=atol_of(plain), rtol=1e-4)
    torch.testing.assert_close(now(name)[title], pin, atol=atol_of(plain), rtol=1e-4)


def test_every_setting_has_a_pin_of_its_own() -> None:
    """And each moves the latents a thousand times as far as the tolerance reaches."""
    plains = {f"{name}/plain" for name in pinned.PIPELINES}
    assert set(then()) == plains | {f"{name}/{title}" for name, title in CASES}
    for name, settings in pinned.SETTINGS.items():
        found = [then()[f"{name}/{title}"] for title in ("plain", *settings)]
        for one, other in itertools.combinations(found, 2):
            assert (one - other).abs().max() > 1000 * atol_of(found[0])


# --- keys of the ledger ---------------------------------------------------------------------------


class EngineOfThen(LocalEngine):
    """This process, with the versions of the libraries that the pinned keys were made with."""

    def versions(self) -> dict[str, str]:
        return KEYS["versions"]


def keys_of(plan: Plan, folder: Path) -> dict[str, str]:
    """By model and setting, of the first prompt and seed; nothing is made."""
    events = sweep(plan, folder / "run", EngineOfThen(folder / "work"), measure=False)
    next(events)
    events.close()
    with Run.open(folder / "run") as run:
        settings = {setting.id: setting for setting in run.settings()}
        found: dict[str, str] = {}
        for clip in run.clips():
            setting = settings[clip.setting]
            found.setdefault(f"{setting.model}/{setting.name}", clip.key)
    return found


@pytest.mark.parametrize("plan", KEYS["keys"])
def test_keys_of_videos_in_a_ledger(plan: str, tmp_path: Path, on_cpu: None) -> None:
    """A key that changes makes every video of every run anew."""
    assert keys_of(Plan.read(ROOT / plan), tmp_path) == KEYS["keys"][plan]


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is part of a key."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


# --- a record of format 1 -------------------------------------------------------------------------


def reproduced(source: Path, out: Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["reproduce", str(source), "--out", str(out), "--json"])
    assert result.exit_code in (0, 1), result.output  # 1 is "not bit-equal", as on other machines
    return json.loads(result.stdout)


def frames_of(*paths: Path) -> Sequence[np.ndarray]:
    return [video.read(path)[0].astype(float) for path in paths]


def test_a_video_with_a_record_of_format_1_is_made_again(tmp_path: Path) -> None:
    """By APG, a weak pass with soft attention in two layers, a window, rescaling and a restart."""
    source, out = pinned.FOLDER / "format-1.mp4", tmp_path / "again.mp4"
    record = video.read_record(source)
    assert record["format"] == 1
    payload = reproduced(source, out)
    assert not [name for name in payload["changed"] if name.startswith("settings.")]
    measured = payload["record"]["measured"]["passes_per_step"]
    assert measured == pytest.approx(record["measured"]["passes_per_step"])
    before, after = frames_of(source, out)
    # x264 writes equal frames 0.4 apart; other settings are 0.9 and more away, most 1.2
    assert payload["bit_equal"] or np.abs(before - after).mean() < 0.65
