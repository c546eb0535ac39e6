"""docs/gpu.md, from the results of `skipguide bench --gpu`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Result = dict[str, Any]

_INTRODUCTION = """\
# Large models on a large GPU

`make gpu` makes one denoising step of models at the size of their checkpoints, in one script of at
most nine minutes, and writes gpu.json and this page. Weights are random numbers in bfloat16,
drawn on the device, so that nothing is downloaded; what they predict is noise, but every operation
is run. The layer is the recommended preset's, skipped as a whole (`skip="residual"`). Ratios are
those of the best rounds to CFG alone in the same mode; "by others" are diffusers' SkipLayerGuidance
and LTX-2's own STG. Each model has a process and a time limit of its own.
"""
_NOT_RUN = """
**Not run yet: no GPU was available.** `skipguide bench --gpu --small` runs the same path on a CPU
with small models, and so do the tests.
"""
_HEAD = (
    "mode", "rounds", "CFG, s", "full weak pass", "skipguide", "interval", "floor", "exact=False",
    "by others", "bit-equal", "peak of CFG, full, skipguide, GB",
)  # fmt: skip
_OTHERS = {"slg_guider": "SkipLayerGuidance", "ltx2_stg": "own STG", "sd3_skip_layers": "own skip"}


def format_page(results: Result | None) -> str:
    """Return the page.

    Args:
        results: of `gpu.run`; None if there are none.
    """
    if results is None:
        return _INTRODUCTION + _NOT_RUN
    return "\n".join([_INTRODUCTION, format_results(results)])


def format_results(results: Result) -> str:
    """Return the machine, and a table for each model."""
    size = "small models, to test the path" if results["small"] else "models of their full size"
    memory = results["device_bytes"]
    where = results["device"] + (f" with {memory / 2**30:.0f} GiB" if memory else "")
    said = (
        f"{results['date']}, {where}, torch {results['torch']}, {size}, {results['seconds']:.0f} s."
    )
    parts = [_case_text(case) for case in results["cases"].values()]
    return "\n".join([said, *(f"\n{part}" for part in parts), ""])


def _case_text(case: Result) -> str:
    lines = [f"## {case['title']}", ""]
    if "parameters" in case:
        billions, gigabytes = case["parameters"] / 1e9, case["weights_bytes"] / 1e9
        lines += [
            (
                f"{billions:.1f}e9 parameters, {gigabytes:.1f} GB; CFG {case['cfg']};"
                f" {case['layer']} of {case['blocks']} blocks."
            ),
            "",
        ]
    if "ended" in case:
        lines += [f"Its process {case['ended']}.", ""]
    modes = case.get("modes", {})
    if modes:
        lines += [f"| {' | '.join(_HEAD)} |", f"|{'---|' * len(_HEAD)}"]
    lines += [f"| {' | '.join(_mode_cells(name, mode))} |" for name, mode in modes.items()]
    return "\n".join(lines)


def _mode_cells(name: str, mode: Result) -> Iterator[str]:
    yield name
    if mode["status"] != "done":
        yield mode.get("error") or mode["status"]
        yield from [""] * (len(_HEAD) - 2)
        return
    ways = mode["ways"]
    ratio = {key: f"{way['ratio']:.3f}" for key, way in ways.items()}
    low, high = ways["shared"]["interval"]
    yield str(mode["rounds"])
    yield f"{ways['cfg']['seconds']:.4f}"
    yield ratio["full"]
    yield ratio["shared"]
    yield f"{low:.3f} to {high:.3f}"
    yield f"{mode['floor_ratio']:.3f}" if "floor_ratio" in mode else "-"
    yield ratio.get("batch", "-")
    others = [f"{words} {ratio[key]}" for key, words in _OTHERS.items() if key in ratio]
    yield ", ".join(others) or "-"
    yield "yes" if mode["bit_equal"] else f"no ({mode['largest_difference']:.2g})"
    yield ", ".join(f"{ways[key]['peak_bytes'] / 1e9:.2f}" for key in ("cfg", "full", "shared"))


def read_results(path: Path) -> Result | None:
    """Return the results in a file; None if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


if __name__ == "__main__":
    print(format_page(read_results(Path(sys.argv[1]))), end="")
