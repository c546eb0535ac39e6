"""skipguide bench: the price of a guided step beside plain CFG, measured in one run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from skipguide.cli import console
from skipguide.cli.options import Json


def bench(
    family: Annotated[str, typer.Option(help="Model family.")] = "mochi",
    width: Annotated[
        int | None, typer.Option(help="Width of the denoiser, a multiple of 64.", show_default="256")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts in the batch.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; each measures every way once.")] = 9,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="The public checkpoint's size; for a large GPU.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16.")] = "float32",
    as_json: Json = False,
) -> None:
    """Measure one denoising step: CFG, CFG + STG as others do it, CFG + STG with the shared prefix.

    Random weights, the family's real class and depth. All ways alternate within one run; ratios are medians to CFG.
    """
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"--dtype must be float32, bfloat16 or float16, but got {dtype!r}. Choose one of them.")
    from skipguide import bench
    from skipguide.generation import check_device
    from skipguide.quirks import quiet_autocast

    check_device(device)
    result: dict[str, Any] = {}
    with quiet_autocast():
        steps = bench.run(
            family, prompts=prompts, width=width, repeats=repeats, full_size=full_size, device=device, dtype=dtype
        )
        for kind, value in steps:
            if kind == "progress":
                typer.echo(f"  {value}", err=True)
            else:
                result = value
    console.tell(_table(result), result, as_json)


def _table(r: dict[str, Any]) -> str:
    passes = 2 * r["floor_ratio"]
    rows = [
        ("way of one step", "passes", "time / CFG"),
        ("CFG alone", "2", "1"),
        ("guide() attached, scale 0", "2", f"{r['attached_ratio']:.3f}"),
        ("CFG + STG, third sample in the batch", "3", f"{r['stg_batched_ratio']:.3f}"),
        ("CFG + STG, third full pass", f"{3 - 1 / r['blocks']:.2f}", f"{r['stg_full_ratio']:.3f}"),
        ("CFG + STG, skipguide", f"{passes:.2f}", f"{r['stg_shared_ratio']:.3f}"),
        ("floor, from counting blocks", f"{passes:.2f}", f"{r['floor_ratio']:.3f}"),
    ]
    lines = [f"| {a:<37}| {b:>6} | {c:>10} |" for a, b, c in rows]
    lines.insert(1, f"|{'-' * 38}|{'-' * 7}:|{'-' * 11}:|")
    what = f"{r['family']}, {r['blocks']} blocks, layer {r['layer']}, residual; {r['parameters'] / 1e6:.0f}M parameters"
    where = f"{r['dtype']}, {r['prompts']} prompts, {r['device']} with {r['threads']} threads"
    return "\n".join(
        [
            f"{what}, {where}, {r['repeats']} rounds, CFG {r['cfg_s']:.3f} s",
            *lines,
            f"weak outputs bit-equal to a full pass: {'yes' if r['bit_equal'] else 'no'} "
            f"(largest difference {r['largest_difference']:.2g})",
            f"extra peak memory {r['extra_bytes']} bytes; the cond state between two blocks: {r['hidden_bytes']} bytes",
        ]
    )
