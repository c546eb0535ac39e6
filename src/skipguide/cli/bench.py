"""skipguide bench: measure what a guided step costs beside plain CFG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from skipguide.cli import console
from skipguide.cli.options import Json
from skipguide.method.protocols import PlainData

Result = PlainData  # what step_cost.run() yields at the end


def bench(
    family: Annotated[
        str, typer.Option(help="Model family, as `skipguide families` names it.")
    ] = "mochi",
    every: Annotated[bool, typer.Option("--all", help="Every family, one row each.")] = False,
    width: Annotated[
        int | None,
        typer.Option(help="Width of the denoiser, a multiple of 64.", show_default="256"),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts in the batch.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; each measures every way once.")] = 7,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="The public checkpoint's size; for a large GPU.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16.")] = "float32",
    scan: Annotated[
        bool,
        typer.Option(
            "--scan",
            help="Instead: the weak passes of a scan of all layers (`skipguide layers --map`)"
            " beside full passes. --family may also be a lab model or a folder.",
        ),
    ] = False,
    startup: Annotated[
        str | None,
        typer.Option(
            metavar="ARGUMENTS",
            help="Instead: the seconds of skipguide generate with these arguments to its first step"
            ", by parts, as in --startup '\"a star\" --model folder'.",
            show_default=False,
        ),
    ] = None,
    gpu: Annotated[
        bool,
        typer.Option(
            "--gpu",
            help="Instead: four models at their full size on a large GPU, in at most 9 minutes.",
        ),
    ] = False,
    small: Annotated[
        bool, typer.Option("--small", help="With --gpu: small models on a CPU, to test the path.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", help="With --gpu: the file of results, which is replaced.")
    ] = Path("gpu.json"),
    caches: Annotated[
        bool,
        typer.Option(
            "--caches",
            help="Instead: diffusers' caches across steps beside CFG and STG, on lab-mochi.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure what guidance adds to one denoising step.

    CFG alone is compared with CFG + STG: with a full extra pass, with the shared prefix, with
    exact=False where the pipeline has a batch, and in diffusers' own ways where there are any. The
    denoiser has the family's real class and depth, and random weights. The ways alternate within
    one run, and the best round of each counts. The floor of a UNet is counted in floating point
    operations, without the time that moving memory takes."""
    if startup is not None:
        _measure_startup(startup, as_json)
        return
    if gpu:
        _measure_gpu(small, out, as_json)
        return
    if caches:
        _measure_caches(repeats, as_json)
        return
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(
            f"--dtype must be float32, bfloat16 or float16, but got {dtype!r}. Choose one of them."
        )
    if scan:
        _measure_scan(family, every, dict(
            prompts=prompts, width=width, repeats=repeats, full_size=full_size, device=device,
            dtype=dtype,
        ), as_json)  # fmt: skip
        return
    from skipguide.bench import step_cost
    from skipguide.families import rows
    from skipguide.models.loading import check_device
    from skipguide.pipeline.warnings import ignore_cpu_autocast_warning

    check_device(device)
    options: PlainData = dict(
        prompts=prompts, width=width, repeats=repeats, full_size=full_size, device=device,
        dtype=dtype,
    )  # fmt: skip
    names = [row.name for row in rows.FAMILIES] if every else [family]
    results = []
    with ignore_cpu_autocast_warning():
        for name in names:
            results.append(_wait_for_result(step_cost.run(name, **options)))
            if every:  # one by one, for it takes a while
                typer.echo(_family_row(results[-1]), err=True)
    if every:
        console.print_result(_families_table(results), {"results": results}, as_json)
    else:
        console.print_result(_table(results[0]), results[0], as_json)


def _measure_scan(family: str, every: bool, options: PlainData, as_json: bool) -> None:
    from skipguide.families import rows
    from skipguide.models.loading import check_device
    from skipguide.pipeline.warnings import ignore_cpu_autocast_warning
    from skipguide.tuning.scan import cost as scan_cost

    check_device(options["device"])
    results = []
    with ignore_cpu_autocast_warning():
        for name in [row.name for row in rows.FAMILIES] if every else [family]:
            results.append(_wait_for_result(scan_cost.run(name, **options)))
    payload = {"results": results} if every else results[0]
    console.print_result("\n".join(map(_scan_text, results)), payload, as_json)


def _scan_text(r: Result) -> str:
    title = (
        f"{r['name']}: {r['denoiser']}, {r['blocks']} blocks or layers; {r['dtype']},"
        f" {r['device']} with {r['threads']} threads, {r['repeats']} rounds; a forward pass takes"
        f" {r['forward_s']:.4f} s"
    )
    lines = [
        (
            f"  {row['skip']}: {row['cells']} weak passes {row['weak_s']:.3f} s, measuring their"
            f" pushes {row['measuring_s']:.3f} s; {row['expected']:.2f} forward passes by blocks"
            f" would be {row['expected_s']:.3f} s: ratio {row['ratio']:.3f} in time,"
            f" {row['flops_ratio']:.3f} in FLOPs; keeping the states takes {row['recording_s']:.4f}"
            " s once"
        )
        for row in r["skips"]
    ]
    return "\n".join([title, *lines])


def _measure_gpu(small: bool, out: Path, as_json: bool) -> None:
    from skipguide.bench import gpu, gpu_page
    from skipguide.bench.gpu_cases import GpuOptions

    found = _wait_for_result(gpu.run(GpuOptions("cpu" if small else "cuda", small), out))
    console.print_result(gpu_page.format_results(found), found, as_json)


def _measure_caches(repeats: int, as_json: bool) -> None:
    from skipguide.bench import cache_cost

    found = _wait_for_result(cache_cost.run(repeats))
    console.print_result(cache_cost.format_table(found), found, as_json)


def _wait_for_result(events: Iterator[tuple[str, Any]]) -> Any:
    """Print the progress of a benchmark, and return its result, which comes last."""
    result = None
    for kind, result in events:
        if kind == "progress":
            typer.echo(f"  {result}", err=True)
    return result


def _measure_startup(arguments: str, as_json: bool) -> None:
    from skipguide.cli import bench_startup

    found: dict[str, PlainData] = {}
    for name, measured in bench_startup.measure_startup(arguments):
        typer.echo(f"  {name}: {measured['total']:.1f} s", err=True)
        found[name] = measured
    console.print_result(bench_startup.format_startup(found), found, as_json)


def _families_table(results: list[Result]) -> str:
    """Format one row for each family."""
    from skipguide.bench import summary

    lines = [
        (
            "| family | CFG | blocks | layer | full weak pass | skipguide | interval | floor |"
            " above it | bit-equal | peak over CFG | exact=False | from exact | by others |"
        ),
        "|---|---|--:|---|--:|--:|--:|--:|--:|---|--:|--:|--:|---|",
    ]
    lines += [_family_row(r) for r in results]
    r = results[0]
    where = (
        f"{r['dtype']}, {r['prompts']} prompts, {r['device']} with {r['threads']} threads, best of"
        f" {r['repeats']} rounds"
    )
    what = "time of a guided step / time of a step of CFG; residual skip where nothing else is said"
    note = (
        ["", "The floor of a UNet is counted in FLOPs."]
        if any(r["floor_by"] == "FLOPs" for r in results)
        else []
    )
    said = summary.summarize(results)
    return "\n".join([f"{what}; {where}", "", *lines, "", *said, "", _interval_note(r), *note])


def _interval_note(r: Result) -> str:
    return (
        "Intervals go from the smallest to the largest ratio of a round; they hold the median with"
        f" {r['interval_level']:.1%}. Distances are those of D, relative to the push."
    )


def _family_row(r: Result) -> str:
    ways = r["ways"]
    shared, equal = ways["shared"], "yes" if r["bit_equal"] else "no"
    batch = [_ratio(ways.get("batch")), _distance(ways.get("batch"))]
    others = [f"{_OTHERS[name]} {_ratio(ways[name])}" for name in _OTHERS if name in ways]
    cells = [
        r["family"], r["cfg"], str(r["blocks"]), _describe_skip(r), _ratio(ways["full"]),
        _ratio(shared), _interval(shared), f"{r['floor_ratio']:.3f}",
        f"{shared['ratio'] - r['floor_ratio']:+.3f}", equal, _peak(r, "shared"), *batch,
        ", ".join(others) or "-",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


_OTHERS = {
    "slg_guider": "SkipLayerGuidance",
    "ltx2_stg": "LTX-2's own STG",
    "sd3_skip_layers": "SD3's own skip guidance",
}


def _ratio(way: Result | None) -> str:
    return "-" if way is None else f"{way['ratio']:.3f}"


def _interval(way: Result | None) -> str:
    return "-" if way is None else "{:.3f} to {:.3f}".format(*way["interval"])


def _distance(way: Result | None) -> str:
    found = None if way is None else way.get("distance")
    return "-" if found is None else "0" if found == 0 else f"{found:.1e}"


def _peak(r: Result, name: str) -> str:
    """Return how much more memory than that of CFG a way takes, in MB."""
    peaks = [r["ways"][way].get("peak_bytes") for way in ("cfg", name)]
    return "-" if None in peaks else f"{(peaks[1] - peaks[0]) / 1e6:+.1f} MB"


def _describe_skip(r: Result) -> str:
    """Return the layer and how it is skipped, as in "up:0, attention, spatial 2 + temporal 0.5".

    A plain residual skip is not named."""
    terms = r["terms"]
    skips = list(dict.fromkeys(term["skip"] for term in terms))
    parts = [r["layer"], *([] if skips == ["residual"] else skips)]
    if any(term["axis"] for term in terms):
        parts.append(" + ".join(f"{term['axis']} {term['scale']:g}" for term in terms))
    return ", ".join(parts)


def _table(r: Result) -> str:
    kept = (
        "what it keeps of the cond pass"
        if r["floor_by"] == "FLOPs"
        else "the state between two blocks"
    )
    unit = "layers" if r["floor_by"] == "FLOPs" else "blocks"
    residual = "" if "attention" in _describe_skip(r) else ", residual"
    plain, _ = _plain_step(r)
    times = (f"time / {plain}", "interval", "from exact", f"peak over {plain}")
    head = ("way of one step", "passes", *times)
    widths = (42, 6, 10, 16, 10, 13)
    lines = [_line(row, widths) for row in (head, *_table_rows(r))]
    lines.insert(1, f"|{'-' * 44}|{'|'.join('-' * (width + 1) + ':' for width in widths[1:])}|")
    size = f"{r['parameters'] / 1e6:.0f}M parameters"
    what = f"{r['family']}, {r['blocks']} {unit}, layer {_describe_skip(r)}{residual}; {size}"
    where = f"{r['dtype']}, {r['prompts']} prompts, {r['device']} with {r['threads']} threads"
    missing = r["no_slg_guider"]
    return "\n".join(
        [
            f"{what}, {where}, best of {r['repeats']} rounds, {plain} {r['cfg_s']:.3f} s",
            *lines,
            _interval_note(r),
            (
                f"weak outputs bit-equal to a full pass: {'yes' if r['bit_equal'] else 'no'} "
                f"(largest difference {r['largest_difference']:.2g}); {kept}:"
                f" {r['hidden_bytes']} bytes"
            ),
            *([f"diffusers' SkipLayerGuidance was not measured: {missing}"] if missing else []),
            *(_recipe_lines(r["recipe"]) if "recipe" in r else ()),
        ]
    )


_RECIPE_WAYS = {
    "own": "diffusers' own, four full passes",
    "shared": "skipguide",
    "batch": "skipguide with exact=False",
    "reused": "skipguide, both terms with every=2",
}


def _recipe_lines(recipe: PlainData) -> Iterator[str]:
    """Yield the table of LTX-2's whole recipe, beside its pipeline's own way."""
    widths = (42, 6, 10, 16, 13)
    yield (
        f"LTX-2's recipe, CFG + STG (attention of layer {recipe['layer']}) + modality guidance;"
        f" {recipe['apart']:.1g} apart:"
    )
    yield _line(("way of one step", "passes", "time / own", "interval", "by operations"), widths)
    yield f"|{'-' * 44}|{'|'.join('-' * (width + 1) + ':' for width in widths[1:])}|"
    for name, words in _RECIPE_WAYS.items():
        way = recipe["ways"][name]
        counted = f"{way['by_operations']:.3f}"
        yield _line((words, f"{way['passes']:.2f}", _ratio(way), _interval(way), counted), widths)
    counted = recipe["weak_passes_by_operations"].items()
    passes = ", ".join(f"{name} {cost:.2f}" for name, cost in counted)
    yield f"weak passes of skipguide by operations, in forward passes: {passes}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        f"{cell:<{width}}" if k == 0 else f"{cell:>{width}}"
        for k, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join([first, *rest])} |"


def _plain_step(r: Result) -> tuple[str, str]:
    """Return what a step without STG is called, and how many passes it has."""
    return ("c", "1") if r["cfg"] == "none" else ("CFG", "2")


def _table_rows(r: Result) -> Iterator[tuple[str, ...]]:
    plain, alone = _plain_step(r)
    nth = "second" if alone == "1" else "third"
    more = f"{nth} full pass" if len(r["terms"]) == 1 else f"{len(r['terms'])} more full passes"
    floor = "floor, by FLOPs" if r["floor_by"] == "FLOPs" else "floor, by the time of the blocks"
    shared, full = f"{r['passes']:.2f}", f"{r['passes_full']:.2f}"
    names = {
        "cfg": (f"{plain} alone", alone),
        "attached": ("guide() attached, scale 0", alone),
        "full": (f"{plain} + STG, {more}", full),
        "shared": (f"{plain} + STG, skipguide", shared),
        "batch": ("CFG + STG, skipguide with exact=False", shared),
        "slg_guider": ("CFG + STG, diffusers' SkipLayerGuidance", full),
        "ltx2_stg": ("CFG + STG, diffusers' own for LTX-2", "3.00"),
        "sd3_skip_layers": ("CFG + STG, diffusers' own for SD3", full),
    }
    for name, (words, passes) in names.items():
        if name in r["ways"]:
            way = r["ways"][name]
            yield words, passes, _ratio(way), _interval(way), _distance(way), _peak(r, name)
    yield floor, shared, f"{r['floor_ratio']:.3f}", "", "", ""
