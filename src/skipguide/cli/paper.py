"""skipguide paper: the paper's tables and figures in miniature, on the lab's models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipguide.cli import console
from skipguide.cli.options import Json, parse_folder
from skipguide.files import folders

if TYPE_CHECKING:
    from skipguide.paper.open.run import Order as OpenOrder
    from skipguide.paper.reuse.study import Study
    from skipguide.paper.run import Order

paper = typer.Typer(
    help="Make the paper's tables and figures with the lab's models.", no_args_is_help=True
)

Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="lab-mochi, ...", show_default="all that are there"),
]
Folder = Annotated[
    Path,
    typer.Option("--folder", help="Where the records are.", parser=parse_folder, metavar="PATH"),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(help="MODEL=FOLDER: other weights.", show_default="the packaged ones"),
]
Clips = Annotated[int, typer.Option(help="Prompts per row, up to 2048.")]
Rows = Annotated[
    str,
    typer.Option(
        help="Only rows, or experiments, whose name fits this pattern, and the real clips that"
        " Frechet distances are measured to."
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(min=2, help="Sampling steps, to try things out.", show_default="the model's"),
]
Dtype = Annotated[str, typer.Option(help="Of the models: bfloat16, float32.")]
TextOnly = Annotated[
    bool, typer.Option("--text-only", help="Fill the page again from the numbers of --docs.")
]
RUNS = Path("runs/paper")


@paper.command()
def run(
    clips: Clips = 1024,
    rows: Rows = "*",
    model: Models = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda.", show_default="the GPU if there is one")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Clips at a time.", show_default="32; 256 on a GPU")
    ] = None,
    part: Annotated[
        str, typer.Option(help="i/n: every n-th piece of the work, for n parallel processes.")
    ] = "0/1",
    steps: Steps = None,
    dtype: Dtype = "bfloat16",
    weights: Weights = None,
    folder: Folder = RUNS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it will take, and stop there.")
    ] = False,
) -> None:
    """Generate and measure the clips of all rows.

    It says first what is missing and about how long that takes. Stop it whenever you like: the same
    command continues where it stopped.
    """
    import torch

    from skipguide.models import loading
    from skipguide.paper import forecast, run

    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    usual = min(256 if place.startswith("cuda") else 32, clips)
    _check_folder("--folder", folder, is_written=not dry_run)
    order = _build_order(
        folder, model, weights, clips=clips, rows=rows, device=place, batch=batch or usual,
        steps=steps, dtype=dtype, part=_parse_part(part),
    )  # fmt: skip
    _report_missing(order)
    loading.check_device(order.device)
    typer.echo(forecast.describe(forecast.forecast(order), order), err=not dry_run)
    if dry_run:
        return
    with console.training_progress() as report:
        for what, progress in run.run(order):
            report(what, progress)
    typer.echo(f"done: {folder}; write the report with: {_report_command(order)}")


@paper.command()
def status(
    clips: Clips = 1024,
    rows: Rows = "*",
    model: Models = None,
    steps: Steps = None,
    dtype: Dtype = "bfloat16",
    weights: Weights = None,
    folder: Folder = RUNS,
    as_json: Json = False,
) -> None:
    """Show how many clips of each row there are."""
    from skipguide.paper import status

    found = status.count_clips(
        _build_order(folder, model, weights, clips=clips, rows=rows, steps=steps, dtype=dtype)
    )
    console.print_result(status.format_table(found), {"models": found}, as_json)


@paper.command()
def report(
    clips: Annotated[int, typer.Option(help="Prompts per row, at most.")] = 2048,
    model: Models = None,
    steps: Steps = None,
    dtype: Dtype = "bfloat16",
    weights: Weights = None,
    folder: Folder = RUNS,
    docs: Annotated[
        Path,
        typer.Option(
            help="Gets paper-in-miniature.md, and paper/ with the appendix, plots and raw numbers.",
            parser=parse_folder,
            metavar="PATH",
        ),
    ] = Path("docs"),
    text_only: Annotated[
        bool,
        typer.Option(
            "--text-only",
            help="Write the pages again from the numbers of --docs, without records.",
        ),
    ] = False,
) -> None:
    """Write the report: tables, plots, raw numbers as CSV."""
    _check_folder("--docs", docs)
    from skipguide.paper import models, report

    if text_only:
        for path in report.write_pages_again(model or tuple(models.MODELS), docs):
            typer.echo(path)
        return
    order = _build_order(folder, model, weights, clips=clips, steps=steps, dtype=dtype)
    for path in report.write_report(order, docs):
        typer.echo(path)


@paper.command()
def tune(
    model: Models = None,
    repeats: Annotated[int, typer.Option(min=20, help="Simulated tunings of each kind.")] = 200,
    docs: Annotated[
        Path,
        typer.Option(
            help="Has paper/ and tune/ with published clips and layer maps.",
            parser=parse_folder,
            metavar="PATH",
        ),
    ] = Path("docs"),
    records: Annotated[
        Path | None,
        typer.Option(
            help="First write the clips of a run with --rows 'map-raised' or 'map-low' to tune/ of"
            " --docs.",
            parser=parse_folder,
            metavar="PATH",
        ),
    ] = None,
    scans: Annotated[
        bool, typer.Option("--scans", help="First scan the models where tune/ has no scan.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what `skipguide tune` finds in simulated repeats.

    The clips are those of exhaustive layer maps; nothing is generated (docs/tune.md).
    """
    from skipguide.paper import models, tune_maps, tune_proof, tune_tables

    chosen = tuple(model or models.MODELS)
    if records is not None or scans:
        _check_folder("--docs", docs)
    if records is not None:
        _check_folder("--records", records, is_written=False)
        order = _build_order(records, list(chosen), None)
        places = {name: place[0] for name in chosen if (place := order.locate_records(name))}
        for path in tune_maps.write_maps(places, docs):
            typer.echo(path, err=True)
    if scans:
        _make_scans(docs, chosen)
    found = tune_proof.prove(docs, chosen, repeats)
    console.print_result(tune_tables.format_proof(found), tune_tables.proof_data(found), as_json)


@paper.command()
def why(
    networks: Annotated[int, typer.Option(min=1, help="How many, by seed.")] = 6,
    steps: Annotated[int, typer.Option(min=10, help="Of each training.")] = 2000,
    samples: Annotated[int, typer.Option(min=64, help="Of each class and setting.")] = 512,
    docs: Annotated[
        Path,
        typer.Option(
            help="Gets why.md, and why/ with figures and raw numbers.",
            parser=parse_folder,
            metavar="PATH",
        ),
    ] = Path("docs"),
    text_only: TextOnly = False,
) -> None:
    """Show why guidance by a weak model works.

    Small networks are trained on a plane whose density is known, and guided in all ways.
    """
    _check_folder("--docs", docs)
    from skipguide.paper import missing_records, why_figures, why_page
    from skipguide.paper.why import Plan, measure

    missing_records.check_matplotlib()
    if not text_only:
        plan, found, drawn = Plan(networks, steps, samples), [], []
        for nets, numbers in measure(plan):
            found.append(numbers)
            drawn = drawn or [nets]
            typer.echo(f"  network {len(found)} of {networks}", err=True)
        typer.echo(why_page.write_numbers(plan, found, docs))
        for path in why_figures.write_figures(why_page.read_numbers(docs)[1], drawn[0], docs):
            typer.echo(path)
    typer.echo(why_page.write_page(docs))


@paper.command("open")
def open_prompts(
    clips: Annotated[int, typer.Option(help="Prompts per row, up to 2048.")] = 1024,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="closed, half, open.", show_default="all, and earlier states"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda.", show_default="the GPU if there is one")
    ] = None,
    steps: Steps = None,
    dtype: Dtype = "bfloat16",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Folder of another lab-mochi-2.", parser=parse_folder, metavar="PATH",
            show_default="the packaged one",
        ),
    ] = None,
    folder: Folder = RUNS,
    docs: Annotated[
        Path,
        typer.Option(
            help="Gets open-prompts.md, and open/ with the picture and the numbers.",
            parser=parse_folder, metavar="PATH",
        ),
    ] = Path("docs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is missing, and stop.")
    ] = False,
    text_only: TextOnly = False,
) -> None:  # fmt: skip
    """Show what guidance gains on prompts that leave things open.

    Stop it whenever you like: the same command continues where it stopped.
    """
    from skipguide.paper.open import page

    _check_folder("--docs", docs)
    if not text_only:
        _make_open(_open_order(clips, kind, device, steps, dtype, weights, folder), docs, dry_run)
    if not dry_run:
        typer.echo(page.write(docs))


def _open_order(
    clips: int, kind: list[str] | None, device: str | None, steps: int | None, dtype: str,
    weights: Path | None, folder: Path,
) -> OpenOrder:  # fmt: skip
    import torch

    from skipguide.files import packaged
    from skipguide.models import loading
    from skipguide.paper.open import prompts, run, study

    _check_folder("--folder", folder)
    if unknown := sorted(set(kind or ()) - set(prompts.KINDS)):
        raise ValueError(
            f"--kind must be of {', '.join(prompts.KINDS)}, but got {', '.join(unknown)}. Choose"
            " of them."
        )
    settings = study.SETTINGS if kind is None else tuple(map(study.Setting, kind))
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    loading.check_device(place)
    found = weights or packaged.packaged_path(study.MODEL)
    usual = run.Order(folder, found, clips, settings, place, dtype=dtype)
    return usual if steps is None else dataclasses.replace(usual, steps=steps)


def _make_open(order: OpenOrder, docs: Path, dry_run: bool) -> None:
    from skipguide.paper.open import numbers, run

    typer.echo(run.forecast(order), err=True)
    if dry_run:
        return
    with console.training_progress() as report:
        for progress in run.run(order):
            report("clips", progress)
        for progress in run.measure_errors(order, docs):
            report("errors", progress)
    typer.echo(numbers.write(numbers.measure(order), docs))
    typer.echo(run.make_picture(order, docs))


@paper.command()
def reuse(
    model: Annotated[str, typer.Option(help="lab-mochi, lab-opensora.")] = "lab-mochi",
    clips: Annotated[
        int, typer.Option(help="Of the main rows, a multiple of 16; the others have up to 128.")
    ] = 1024,
    main_only: Annotated[
        bool,
        typer.Option("--main-only", help="Only the main rows: exact, CFG, and the budget of 2."),
    ] = False,
    folder: Folder = RUNS,
    docs: Annotated[
        Path,
        typer.Option(
            help="Gets reuse.md, and reuse/ with the numbers and the figure.",
            parser=parse_folder, metavar="PATH",
        ),
    ] = Path("docs"),
    text_only: TextOnly = False,
) -> None:  # fmt: skip
    """Measure what guidance loses with fewer forward passes.

    Stop it whenever you like: the same command continues where it stopped.
    """
    from skipguide.paper.reuse import page, rows, study

    for option, path in (("--docs", docs), ("--folder", folder)):
        _check_folder(option, path)
    name = model.removeprefix("lab-")
    if name not in rows.MODELS:
        known = ", ".join(f"lab-{known}" for known in rows.MODELS)
        raise ValueError(f"--model must be one of {known}, but got {model!r}. Choose one of them.")
    if text_only:
        typer.echo(page.fill(docs))
        return
    made = tuple(row for row in rows.ROWS if row.is_main or not main_only)
    order = study.Study(folder / "reuse", name, clips, made)
    _make_study(order)
    typer.echo(page.write(order, docs))


@paper.command()
def rules(
    clips: Annotated[int, typer.Option(help="Of every row, a multiple of 16.")] = 128,
    folder: Folder = RUNS,
    docs: Annotated[
        Path,
        typer.Option(
            help="Gets rules.md, and rules/ with the numbers.", parser=parse_folder,
            metavar="PATH",
        ),
    ] = Path("docs"),
    made_only: Annotated[
        bool, typer.Option("--made-only", help="Report on the rows that are there, and make none.")
    ] = False,
    text_only: TextOnly = False,
) -> None:  # fmt: skip
    """Measure the rules of CFG, restarts with a mask and NAG on lab-mochi.

    Stop it whenever you like: the same command continues where it stopped.
    """
    from skipguide.paper.rules import page

    for option, path in (("--docs", docs), ("--folder", folder)):
        _check_folder(option, path)
    if text_only:
        typer.echo(page.fill(docs))
        return
    orders = page.studies(folder / "rules", clips)
    for order in orders:
        if not made_only:
            _make_study(order)
    typer.echo(page.write(orders, docs))


def _make_study(order: Study) -> None:
    """Make the clips of a study that are missing, with a line of progress."""
    from skipguide.paper.reuse import study

    typer.echo(f"{len(order.tasks())} batches of {study.BATCH} clips to make", err=True)
    with console.training_progress() as report:
        for progress in study.make(order):
            report("batches", progress)


def _make_scans(docs: Path, chosen: Sequence[str]) -> None:
    """Make the scans that belong to the maps of some models and are not there."""
    from skipguide.paper import tune_maps, tune_proof, tune_scans

    for one in tune_maps.load_maps(docs):
        path = tune_proof.scan_path(docs, one)
        if one.model in chosen and not path.is_file():
            scale = one.base.guidance_scale
            made = tune_scans.make_scan(one.model, scale, lambda text: typer.echo(text, err=True))
            tune_scans.write_scan(made, path)


def _build_order(
    folder: Path, model: list[str] | None, weights: list[str] | None, **more: Any
) -> Order:
    from skipguide.paper import models, run

    _check_folder("--folder", folder, is_written=False)
    chosen = tuple(model or models.MODELS)
    for name in chosen:
        models.find_weights(name)  # fails early for an unknown model
    return run.Order(folder, chosen, weights=tuple(map(_parse_weights, weights or ())), **more)


def _check_folder(option: str, folder: Path, is_written: bool = True) -> None:
    """Check that files can be written below a folder, which need not exist yet."""
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not parent.is_dir():
        raise ValueError(f"{option} must be a folder, but {parent} is a file. Choose another name.")
    if is_written:
        folders.check_writable(folder, option)


def _report_command(order: Order) -> str:
    """Return the command that reports on what an order has made."""
    from skipguide.paper import models

    parts = ["skipguide paper report"]
    parts += [f"--folder {order.folder}"] if order.folder != RUNS else []
    parts += [f"--model {name}" for name in order.models if order.models != tuple(models.MODELS)]
    parts += [f"--steps {order.steps}"] if order.steps else []
    parts += [f"--dtype {order.dtype}"] if order.dtype != models.DTYPE else []
    parts += [f"--weights {name}={path}" for name, path in order.weights]
    return " ".join(parts)


def _parse_weights(given: str) -> tuple[str, Path]:
    name, _, path = given.partition("=")
    if not path:
        raise ValueError(
            f"--weights must be MODEL=FOLDER, but got {given!r}. Write --weights lab-svd=FOLDER."
        )
    return name, Path(path)


def _parse_part(given: str) -> tuple[int, int]:
    index, _, count = given.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
        raise ValueError(
            f"--part must be i/n, but got {given!r}. Write 0/2 in one process and 1/2 in the other."
        )
    return int(index), int(count)


def _report_missing(order: Order) -> None:
    missing = [name for name in order.models if order.locate_records(name) is None]
    if missing:
        typer.echo(f"  {', '.join(missing)}: model not there yet", err=True)
