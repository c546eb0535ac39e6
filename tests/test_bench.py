"""The benchmark's own claims, on small workloads: same predictions by every way, counts, memory, errors."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import oracle
from skipguide import bench, guide
from skipguide.cli import app
from skipguide.families import FAMILIES
from skipguide.workloads import WORKLOADS, Workload

CPU = torch.device("cpu")
MOCHI = WORKLOADS["mochi"]
SMALL = dataclasses.replace(
    MOCHI, config={**MOCHI.config, "num_layers": 6, "num_attention_heads": 1}, layer=3,
    inputs=lambda batch: {
        **MOCHI.inputs(batch), "hidden_states": torch.randn(batch, 12, 3, 8, 8),
        "encoder_hidden_states": torch.randn(batch, 64, 256),
    },
)  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORKLOADS, "mochi", SMALL)


def run(**options: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = dict(prompts=2, width=64, repeats=1, full_size=False, device="cpu", dtype="float32")
    return dict(bench.run("mochi", **{**defaults, **options}))["result"]


def shallow(work: Workload) -> Workload:
    """The same family with few blocks."""
    depths = {"num_layers": 4, "num_single_layers": 4, "num_visual_blocks": 4}
    config: dict[str, Any] = {name: depths.get(name, value) for name, value in work.config.items()}
    if "vace_layers" in config or (config.get("num_layers") == 4 and "control_hidden_states" in work.inputs(1)):
        config["vace_layers"] = [0, 2]
    if "face_encoder_hidden_dim" in config:
        config["inject_face_latents_blocks"] = 2
    stack = work.layer.split(":")[0] + ":2" if isinstance(work.layer, str) else 2
    return dataclasses.replace(work, config=config, layer=stack)


@pytest.mark.parametrize("family", WORKLOADS)
def test_all_ways_make_the_same_prediction(family: str) -> None:
    step = bench.Step(family, shallow(WORKLOADS[family]), 1, CPU, torch.float32)
    with torch.inference_mode():
        full, plain = step.full(), step.cfg()
        with guide(step.pipe, step.term):
            shared = step.cfg()
        assert torch.equal(step.cfg(), plain)
        weak = oracle.weakened(
            step.model, [f"{step.places[k].stack.path}.{step.places[k].index}" for k in step.skipped], "residual", []
        )
        theirs = oracle.samples(weak(**step.cond))[0]
        torch.testing.assert_close(step.weak_in_full(), theirs.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shared, full, atol=5e-5, rtol=1e-4)
    assert (full - plain).abs().max() > 1e-4


def test_workloads_have_the_depth_of_the_public_checkpoint() -> None:
    import diffusers

    for row in FAMILIES:
        if row.name == "sana-wm":  # its inputs are cameras and poses: no workload
            continue
        with torch.device("meta"):
            model = getattr(diffusers, row.model)(**WORKLOADS[row.name].config)
        assert {name: len(model.get_submodule(stack.path)) for name, stack in row.stacks.items()} == {
            name: stack.depth for name, stack in row.stacks.items()
        }


@pytest.mark.usefixtures("small")
def test_result() -> None:
    result = run(repeats=3)
    assert result["floor_ratio"] > 1
    assert result["passes"] == pytest.approx(2 + 2 / 6)
    assert result["hidden_bytes"] == 2 * (4 * (3 * 4 * 4 * 64 + 64 * 128))
    assert result["extra_bytes"] <= 2 * result["hidden_bytes"]
    assert result["bit_equal"]
    assert result["largest_difference"] == 0
    assert all(result[name] > 0 for name in ("cfg_s", "stg_full_ratio", "stg_shared_ratio"))


def test_floor_is_the_share_of_the_blocks_after_the_skipped_one() -> None:
    """Of two rounds the faster time of each block and of the pass counts; block 3 of 6 is skipped, 4 and 5 are left."""
    step = bench.Step("mochi", SMALL, 1, CPU, torch.float32)
    rounds = [(9.0, {**dict.fromkeys(range(5), 1.0), 5: 3.0}), (8.0, {**dict.fromkeys(range(5), 2.0), 5: 2.0})]
    assert step.floor(rounds) == pytest.approx(1 + (1.0 + 2.0) / (2 * 8.0))


@pytest.mark.usefixtures("small")
def test_command_line() -> None:
    arguments = ["bench", "--family", "mochi", "--repeats", "1", "--width", "64"]
    printed = CliRunner().invoke(app, [*arguments, "--json"])
    assert printed.exit_code == 0
    assert json.loads(printed.stdout)["blocks"] == 6
    table = CliRunner().invoke(app, arguments)
    assert "| CFG + STG, skipguide" in table.stdout


def test_every_family_in_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    some = {name: shallow(WORKLOADS[name]) for name in ("mochi", "wan", "latte")}
    monkeypatch.setattr(bench, "WORKLOADS", some)
    printed = CliRunner().invoke(app, ["bench", "--all", "--repeats", "1", "--prompts", "1"])
    assert printed.exit_code == 0
    assert [line.split("|")[1].strip() for line in printed.stdout.splitlines() if line.startswith("| ")][1:] == list(
        some
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "moch"], "--family must be one of mochi"),
        (["--device", "abacus"], "device must be one that torch has here, but got 'abacus'"),
        (["--width", "100"], "--width must be a positive multiple of 64, but got 100"),
        (["--dtype", "int8"], "--dtype must be float32, bfloat16 or float16, but got 'int8'"),
        (["--family", "wan", "--full-size"], "--full-size is there for mochi, but not for wan"),
    ],
)
def test_refusals(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2
    assert message in result.output
