"""skipguide tune: the layer, the scale, and whether to use STG at all, by measurement."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipguide.cli import console, tune_inputs
from skipguide.cli.help_groups import PanelCommand
from skipguide.cli.options import (
    Config,
    Json,
    accept_some_settings,
    parse_folder,
    read_config,
)
from skipguide.cli.prompt_options import PROMPT_FORMATS, parse_seeds
from skipguide.cli.scan_options import (
    COMMON,
    MODEL,
    SCAN,
    Axes,
    Layers,
    Skips,
    images_option,
    parse_scan,
)
from skipguide.cli.sweep import Ray, Workers, fill_in_address, make_engine
from skipguide.cli.tune_report import TuneReport, plan_payload
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import PlainData

if TYPE_CHECKING:
    from skipguide.tuning.options import TuneOptions

OBJECTIVE = "What is to be raised"
_TYPED = "skipguide.typed"  # in what the command knows of its call


class TuneCommand(PanelCommand):
    """A command with panels whose --ray may stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line, and keep what was typed."""
        ctx.meta[_TYPED] = shlex.join(["skipguide", "tune", *args])
        return super().parse_args(ctx, fill_in_address(args))


@accept_some_settings(COMMON, MODEL)
def tune(
    ctx: typer.Context,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help=f"{PROMPT_FORMATS} with columns prompt, negative_prompt, image, seed.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[Path | None, images_option()] = None,
    seeds: Annotated[
        str, typer.Option(help="Of every prompt that has none of its own: 0:4 is 0, 1, 2, 3.")
    ] = "0",
    hours: Annotated[
        float | None,
        typer.Option(help="All that it may take, on this machine.", show_default="1"),
    ] = None,
    passes: Annotated[
        float | None,
        typer.Option(help="Instead of --hours: forward passes of one sample.", show_default=False),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="A metric of single clips (`skipguide metrics`), or FILE.py:FUNCTION, or"
            " MODULE:FUNCTION; NAME=WEIGHT in a weighted sum, once per metric. Without any of"
            " --metric, --features and --votes nothing is measured.",
            show_default=False,
            rich_help_panel=OBJECTIVE,
        ),
    ] = None,
    features: Annotated[
        str,
        typer.Option(
            help="Instead of --metric: the kernel distance of these features to --reference.",
            show_default=False,
            rich_help_panel=OBJECTIVE,
        ),
    ] = "",
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Folder of real videos.", show_default=False, rich_help_panel=OBJECTIVE
        ),
    ] = None,
    votes: Annotated[
        bool,
        typer.Option(
            "--votes",
            help="Instead of --metric: blind votes in the studio.",
            rich_help_panel=OBJECTIVE,
        ),
    ] = False,
    floor: Annotated[
        list[str] | None,
        typer.Option(
            help="What must not get worse, as motion=0.97: no less than this part of what CFG alone"
            " has. Repeatable.",
            show_default=False,
            rich_help_panel=OBJECTIVE,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the metrics' networks.", show_default=False, rich_help_panel=OBJECTIVE
        ),
    ] = None,
    non_commercial: Annotated[
        bool,
        typer.Option(
            "--non-commercial",
            help="Also use weights whose licence forbids commercial use.",
            rich_help_panel=OBJECTIVE,
        ),
    ] = False,
    guidance_scale: Annotated[
        list[float] | None,
        typer.Option(
            help="CFG's scale that all is compared with; a second and third one race too.",
            show_default="the model's, and half of it",
            rich_help_panel=SCAN,
        ),
    ] = None,
    skips: Skips = None,
    axes: Axes = None,
    layers: Layers = None,
    scan_size: Annotated[
        str | None,
        typer.Option(
            help="Width x height x frames of the scan's videos, as 480x272x25.",
            show_default="that of all videos",
            rich_help_panel=SCAN,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The run directory.", show_default="runs/tune-MODEL",
            parser=parse_folder, metavar="PATH",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Time the model, print the plan, and stop.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also make what failed before.")
    ] = False,
    ray: Ray = None,
    workers: Workers = None,
    config: Config = None,
    as_json: Json = False,
    *,
    given: PlainData,
) -> None:  # fmt: skip
    """Choose layer and scale, or CFG alone, by measurement.

    Scans all layers on the model's own trajectories, races the best of them against CFG alone on
    the same prompts and noise, and measures the answer on prompts that chose nothing. Run the same
    command again after whatever ended it. The answer is RUN/tune.toml, for --preset, and
    RUN/report.html.
    """
    from skipguide.metrics.selection import Options
    from skipguide.tuning.objective.objective import ObjectiveSpec
    from skipguide.tuning.options import TuneOptions

    file = read_config(config)
    common = _common(file, given)
    rows, notes = tune_inputs.read_inputs(prompts, images)
    objective = ObjectiveSpec(
        metrics=tune_inputs.parse_metrics(metric or []),
        features=features,
        reference=reference,
        votes=votes,
        floors=tune_inputs.parse_floors(floor or []),
        options=Options(features, weights, non_commercial, device=str(common.get("device", "cpu"))),
    )
    model = str(common.pop("model", "lab-mochi"))
    options = TuneOptions(
        model, tuple(rows), common, parse_seeds(seeds), objective, tuple(guidance_scale or ()),
        parse_scan(skips, axes, layers), tune_inputs.parse_size(scan_size), hours=hours,
        passes=passes,
    )  # fmt: skip
    folder = out or Path("runs") / f"tune-{Path(model).stem}"
    typed = str(ctx.meta.get(_TYPED, ""))
    _tune(options, folder, (ray, workers), notes, dry_run, retry_failed, as_json, typed)


def _common(file: PlainData, given: PlainData) -> PlainData:
    """Return what all settings share, in the words of a plan.

    Raises:
        ValueError: for something in a file of --config that is none of it.
    """
    allowed = {*COMMON, "num_inference_steps", "base_model"}
    if wrong := [name for name in file if name not in allowed]:
        raise ValueError(
            f"--config of a tuning must have what all of its settings share ({', '.join(COMMON)}),"
            f" but got {', '.join(wrong)}. Remove it: what guides is chosen by the tuning."
        )
    found = {**file, **given}
    known = {name: found[name] for name in found if name in GenerationSettings.model_fields}
    return {**found, **known}


def _tune(
    options: TuneOptions,
    folder: Path,
    engine: tuple[str | None, int | None],
    notes: list[str],
    dry_run: bool,
    retry_failed: bool,
    as_json: bool,
    typed: str,
) -> None:
    """Run the tuning, and print what it finds."""
    from skipguide.tuning.run import Tuning

    report = TuneReport(as_json, folder, dry_run)
    with contextlib.closing(make_engine(folder, *engine)) as made:
        tuning = Tuning(options, folder, made, retry_failed, typed)
        for text in notes:
            report.print_line(text)
        steps = tuning.run(report.on_step, only_plan=dry_run)
        with report.display("loading", keep=True), contextlib.closing(steps):
            result = report.follow(steps)
    if result is None:
        assert report.planned is not None
        told = {"run": str(folder), "plan": plan_payload(report.planned)}
        console.print_result("\n".join(report.planned.sentences), told, as_json)
        return
    console.print_result(report.summary(result), report.payload(result), as_json)
