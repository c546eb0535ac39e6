"""The script for a large GPU, on a CPU at small size: the same path and classes, and its limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from skipguide.bench import gpu, gpu_case, gpu_cases, gpu_page, step_cost
from skipguide.bench.gpu_cases import CASES, MODES, GpuOptions
from skipguide.cli import app
from skipguide.families import rows
from skipguide.families.examples import denoiser_class

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
SMALL = GpuOptions("cpu", small=True, seconds=600)


def family(name: str) -> Any:
    return next(row for row in rows.FAMILIES if row.name == name)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, id=case.family, marks=[] if case.family == "mochi" else [pytest.mark.long]
        )
        for case in CASES
    ],
)
def test_each_case_in_all_modes_but_those_of_cuda(case: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(gpu_case, "MAX_ROUNDS", 1)
    *_, found = gpu_case.run_case(case, SMALL, 600)
    modes = found["modes"]
    assert list(modes) == [mode.name for mode in MODES]
    done = [mode.name for mode in MODES if not mode.needs_cuda]
    assert len(done) == 3
    for name, mode in modes.items():
        if name not in done:
            assert mode == {"status": "needs CUDA"}
            continue
        assert mode["status"] == "done", mode
        assert mode["bit_equal"]
        assert mode["passes"] < mode["passes_full"]
        for way in mode["ways"].values():
            assert way["peak_bytes"] > 0
    assert ("batch" in modes[done[0]]["ways"]) == (found["cfg"] == "batched")
    assert ("ltx2_stg" in modes[done[0]]["ways"]) == (case.family == "ltx-2")
    assert modes[done[0]]["floor_ratio"] > 1
    assert "floor_ratio" not in modes[done[2]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
def test_cases_have_the_size_of_their_checkpoints(case: Any) -> None:
    """Billions of parameters as the makers count them; depths as the rows have them."""
    billions = {"mochi": 10.0, "wan": 14.3, "hunyuan": 12.8, "ltx-2": 18.8}[case.family]
    row = family(case.family)
    with torch.device("meta"):
        model = denoiser_class(row)(**case.config)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.02)
    for stack in row.stacks.values():
        assert len(model.get_submodule(stack.path)) == stack.depth  # type: ignore[arg-type]
    for size in ("video", "short", "few"):
        inputs = case.workload(size, small=False).inputs(1)
        assert inputs["hidden_states"].shape[0] == 1


def test_the_script_keeps_its_time() -> None:
    assert sum(case.seconds for case in CASES) == gpu_cases.SECONDS
    assert gpu_cases.SECONDS + gpu._GRACE <= 9 * 60
    assert sum(mode.share for mode in MODES) == pytest.approx(1)


def test_random_weights_are_drawn_on_the_device_and_buffers_are_real() -> None:
    case = next(case for case in CASES if case.family == "wan")
    row, config = family("wan"), case.workload("few", small=True).config
    model = gpu_case.random_model(row, config, CPU, torch.bfloat16)
    real = denoiser_class(row)(**config)
    buffers = dict(real.named_buffers())
    assert buffers
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name])
    shapes = {name: p.shape for name, p in real.named_parameters()}
    for name, parameter in model.named_parameters():
        assert (parameter.shape, parameter.dtype) == (shapes[name], torch.bfloat16)
        if parameter.ndim > 1:
            fan_in = parameter.numel() / len(parameter)
            assert 0.3 < parameter.float().std() * fan_in**0.5 < 3
    again = gpu_case.random_model(row, config, CPU, torch.bfloat16)
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_mode_that_fails_or_has_no_time_loses_itself_only(monkeypatch: Any) -> None:
    def fail(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB\nmore")

    monkeypatch.setattr(gpu_case, "MAX_ROUNDS", 1)
    monkeypatch.setitem(gpu_case.SETUPS, "compiled", fail)
    *_, found = gpu_case.run_case(CASES[0], SMALL, 600)
    statuses = [mode["status"] for mode in found["modes"].values()]
    assert statuses == ["done", "done", "failed", "needs CUDA", "needs CUDA"]
    failed = found["modes"][MODES[2].name]
    assert failed["error"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 3 GiB"
    *_, found = gpu_case.run_case(CASES[0], SMALL, 0)
    assert [mode["status"] for mode in found["modes"].values()][:3] == ["no time left"] * 3


CHILD = """
import json, os, pathlib, sys, time
family, out, seconds, options = sys.argv[1:]
if family == "mochi":
    pathlib.Path(out).write_text(json.dumps({"title": "Mochi", "modes": {"m": {"status": "x"}}}))
    os.kill(os.getpid(), 9)
if family == "wan":
    time.sleep(600)
if family == "hunyuan":
    sys.exit("RuntimeError: a message")
pathlib.Path(out).write_text(json.dumps({"title": family, "modes": {}}))
"""


def test_a_crash_and_a_hang_lose_one_case_each(tmp_path: Path, monkeypatch: Any) -> None:
    """Children that die, hang, raise and work; the file of results is there after each of them."""
    (tmp_path / "dying_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(gpu, "_CHILD", "dying_child")
    monkeypatch.setattr(gpu, "_GRACE", 0)
    out = tmp_path / "gpu.json"
    written = []
    for kind, _ in gpu.run(GpuOptions("cpu", True, seconds=8.0), out):
        written.append((kind, len(json.loads(out.read_text())["cases"]) if out.exists() else 0))
    assert written == [*(("progress", n) for n in range(4)), ("result", 4)]
    cases = json.loads(out.read_text())["cases"]
    assert cases["mochi"]["modes"] == {"m": {"status": "x"}}  # what it had measured
    assert cases["mochi"]["ended"] == "ended with -9: nothing"
    assert cases["wan"]["ended"] == "was stopped at its time limit"
    assert cases["hunyuan"]["ended"] == "ended with 1: RuntimeError: a message"
    assert cases["ltx-2"] == {"title": "ltx-2", "modes": {}}
    page = gpu_page.format_page(json.loads(out.read_text()))
    assert "Its process was stopped at its time limit." in page


def test_the_last_step_of_a_run_is_timed_alone(monkeypatch: Any) -> None:
    """Of three guided steps one is measured, with guide() attached before."""
    case = next(case for case in CASES if case.family == "mochi")
    step = step_cost.BenchmarkStep("mochi", case.workload("few", small=True), 1, CPU, torch.float32)
    calls, at = [], []
    step.model.register_forward_pre_hook(lambda *_: calls.append(1))

    def measure(way: Any, _: Any) -> float:
        at.append(len(calls))
        way()
        return float(len(calls) - at[-1])

    monkeypatch.setattr(step_cost.rounds, "measure_time", measure)
    with torch.inference_mode():
        found = {name: step.time_step_of_run(name, CPU, 3) for name in ("cfg", "shared", "batch")}
    assert found == {"cfg": 1, "shared": 3, "batch": 2}  # halves and a weak pass; a batch and one
    assert at == [0, 1 + 6, 1 + 9 + 4]


@pytest.mark.long
def test_command_line(tmp_path: Path, monkeypatch: Any) -> None:
    """The real children, one for each case, and the page of what they found."""
    monkeypatch.setattr(gpu_cases, "SECONDS", 3000)
    out = tmp_path / "gpu.json"
    printed = CliRunner().invoke(app, ["bench", "--gpu", "--small", "--out", str(out), "--json"])
    assert printed.exit_code == 0, printed.output
    found = json.loads(out.read_text())
    assert json.loads(printed.stdout) == found
    assert [set(case) & {"ended"} for case in found["cases"].values()] == [set()] * 4
    page = gpu_page.format_page(found)
    assert page.count("| needs CUDA |") == 8
    assert page.count("| yes |") == 12
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 1


def test_full_size_without_a_gpu_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    printed = CliRunner().invoke(app, ["bench", "--gpu", "--out", str(tmp_path / "gpu.json")])
    assert printed.exit_code == 2
    assert "needs a CUDA device for models of their full size" in printed.output
    assert not (tmp_path / "gpu.json").exists()


def test_the_page_is_that_of_the_results() -> None:
    results = gpu_page.read_results(ROOT / "docs/gpu.json")
    page = (ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    assert page == gpu_page.format_page(results)
    assert ("Not run yet: no GPU was available." in page) == (results is None)
