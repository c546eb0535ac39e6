"""skipguide bench: measure what a guided step costs beside plain CFG."""

from __future__ import annotations

from typing import Annotated

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
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; each measures every way once.")] = 9,
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

    Three ways are compared: CFG alone, CFG + STG with a full extra pass, and CFG + STG with the
    shared prefix. The denoiser has the family's real class and depth, and random weights. The ways
    alternate within one run, and the best round of each counts. The floor of a UNet is counted in
    floating point operations, without the time that moving memory takes."""
    if startup is not None:
        _measure_startup(startup, as_json)
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
        dtype=dtype, memory=not every,
    )  # fmt: skip
    names = [row.name for row in rows.FAMILIES] if every else [family]
    results = []
    with ignore_cpu_autocast_warning():
        for name in names:
            for kind, value in step_cost.run(name, **options):
                if kind == "progress":
                    typer.echo(f"  {value}", err=True)
                else:
                    results.append(value)
                    if every:  # one by one, for it takes a while
                        typer.echo(_family_row(value), err=True)
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
            for kind, value in scan_cost.run(name, **options):
                if kind == "progress":
                    typer.echo(f"  {value}", err=True)
                else:
                    results.append(value)
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


def _measure_caches(repeats: int, as_json: bool) -> None:
    from skipguide.bench import cache_cost

    for kind, value in cache_cost.run(repeats):
        if kind == "progress":
            typer.echo(f"  {value}", err=True)
        else:
            console.print_result(cache_cost.format_table(value), value, as_json)


def _measure_startup(arguments: str, as_json: bool) -> None:
    from skipguide.cli import bench_startup

    found: dict[str, PlainData] = {}
    for name, measured in bench_startup.measure_startup(arguments):
        typer.echo(f"  {name}: {measured['total']:.1f} s", err=True)
        found[name] = measured
    console.print_result(bench_startup.format_startup(found), found, as_json)


def _families_table(results: list[Result]) -> str:
    """Format one row for each family."""
    lines = [
        (
            "| family | CFG | blocks | layer | full weak pass | skipguide | floor | above it |"
            " bit-equal |"
        ),
        "|---|---|--:|---|--:|--:|--:|--:|---|",
    ]
    lines += [_family_row(r) for r in results]
    r = results[0]
    where = (
        f"{r['dtype']}, {r['prompts']} prompts, {r['device']} with {r['threads']} threads,"
        f" {r['repeats']} rounds"
    )
    what = "time of a guided step / time of a step of CFG; residual skip where nothing else is said"
    note = (
        ["", "The floor of a UNet is counted in FLOPs."]
        if any(r["floor_by"] == "FLOPs" for r in results)
        else []
    )
    return "\n".join([f"{what}; {where}", "", *lines, *note])


def _family_row(r: Result) -> str:
    above = r["stg_shared_ratio"] - r["floor_ratio"]
    equal = "yes" if r["bit_equal"] else "no"
    return (
        f"| {r['family']} | {r['cfg']} | {r['blocks']} | {_describe_skip(r)} |"
        f" {r['stg_full_ratio']:.3f} | {r['stg_shared_ratio']:.3f} | {r['floor_ratio']:.3f} |"
        f" {above:+.3f} | {equal} |"
    )


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
    more = "third full pass" if len(r["terms"]) == 1 else f"{len(r['terms'])} more full passes"
    floor = "floor, by FLOPs" if r["floor_by"] == "FLOPs" else "floor, by the time of the blocks"
    kept = (
        "what it keeps of the cond pass"
        if r["floor_by"] == "FLOPs"
        else "the state between two blocks"
    )
    unit = "layers" if r["floor_by"] == "FLOPs" else "blocks"
    residual = "" if "attention" in _describe_skip(r) else ", residual"
    rows = [
        ("way of one step", "passes", "time / CFG"),
        ("CFG alone", "2", "1"),
        ("guide() attached, scale 0", "2", f"{r['attached_ratio']:.3f}"),
        (f"CFG + STG, {more}", f"{r['passes_full']:.2f}", f"{r['stg_full_ratio']:.3f}"),
        ("CFG + STG, skipguide", f"{r['passes']:.2f}", f"{r['stg_shared_ratio']:.3f}"),
        (floor, f"{r['passes']:.2f}", f"{r['floor_ratio']:.3f}"),
    ]
    lines = [f"| {a:<37}| {b:>6} | {c:>10} |" for a, b, c in rows]
    lines.insert(1, f"|{'-' * 38}|{'-' * 7}:|{'-' * 11}:|")
    size = f"{r['parameters'] / 1e6:.0f}M parameters"
    what = f"{r['family']}, {r['blocks']} {unit}, layer {_describe_skip(r)}{residual}; {size}"
    where = f"{r['dtype']}, {r['prompts']} prompts, {r['device']} with {r['threads']} threads"
    return "\n".join(
        [
            f"{what}, {where}, {r['repeats']} rounds, CFG {r['cfg_s']:.3f} s",
            *lines,
            (
                f"weak outputs bit-equal to a full pass: {'yes' if r['bit_equal'] else 'no'} "
                f"(largest difference {r['largest_difference']:.2g})"
            ),
            (
                f"peak memory beside the full weak pass {r['extra_bytes']:+d} bytes; {kept}:"
                f" {r['hidden_bytes']} bytes"
            ),
        ]
    )
