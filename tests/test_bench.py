"""The benchmark's own claims, on a small workload: same predictions by every way, counts, memory, errors."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from skipguide import STG, bench, guide
from skipguide.cli import app

SMALL = dataclasses.replace(
    bench.WORKLOADS["mochi"],
    config={**bench.WORKLOADS["mochi"].config, "num_layers": 6, "num_attention_heads": 1},
    latents=(12, 3, 8, 8),
    tokens=16,
    layer=3,
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.WORKLOADS, "mochi", SMALL)


def run(**options: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = dict(prompts=4, width=64, repeats=1, full_size=False, device="cpu", dtype="float32")
    return dict(bench.run("mochi", **{**defaults, **options}))["result"]


def test_all_ways_make_the_same_prediction() -> None:
    step = bench.Step(SMALL, 2, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        full, batched = step.full(), step.batched()
        with guide(step.pipe, STG(layers=[SMALL.layer])):
            shared = step.cfg()
        plain = step.cfg()
    torch.testing.assert_close(shared, full, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(batched, full, atol=1e-5, rtol=1e-5)
    without = copy.deepcopy(step.model)
    del without.transformer_blocks[SMALL.layer]
    with torch.inference_mode():
        assert torch.equal(without(**step.rows(1), return_dict=False)[0], step.weak_in_full())
    assert (full - plain).abs().max() > 1e-3


@pytest.mark.usefixtures("small")
def test_result() -> None:
    result = run()
    assert result["floor_ratio"] == pytest.approx(1 + 2 / 12)  # blocks 4 and 5 again, on half of the rows
    assert result["hidden_bytes"] == 4 * (4 * (3 * 4 * 4 * 64 + 16 * 128))
    assert 0 <= result["extra_bytes"] <= 2 * result["hidden_bytes"]
    assert result["largest_difference"] < 1e-5
    assert result["bit_equal"] == (result["largest_difference"] == 0)
    assert all(result[name] > 0 for name in ("cfg_s", "stg_batched_ratio", "stg_full_ratio", "stg_shared_ratio"))


@pytest.mark.usefixtures("small")
def test_command_line() -> None:
    arguments = ["bench", "--family", "mochi", "--repeats", "1", "--width", "64"]
    printed = CliRunner().invoke(app, [*arguments, "--json"])
    assert printed.exit_code == 0
    assert json.loads(printed.stdout)["blocks"] == 6
    table = CliRunner().invoke(app, arguments)
    assert "| CFG + STG, skipguide" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "moch"], "--family must be one of mochi, but got 'moch'"),
        (["--device", "abacus"], "device must be one that torch has here, but got 'abacus'"),
        (["--width", "100"], "--width must be a positive multiple of 64, but got 100"),
        (["--dtype", "int8"], "--dtype must be float32, bfloat16 or float16, but got 'int8'"),
    ],
)
def test_refusals(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2
    assert message in result.output
