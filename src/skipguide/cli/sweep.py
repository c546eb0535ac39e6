"""skipguide sweep: all videos of a plan, each made once."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from skipguide.cli import console
from skipguide.cli.options import Json, parse_folder, read_config
from skipguide.cli.prompt_options import PlanSeeds, PromptFile, parse_setting, plan_content
from skipguide.cli.sweep_report import SweepReport, estimate_payload, format_estimate
from skipguide.cli.track import Track, open_tracking, tracking_lines, tracking_payload
from skipguide.generate.flags import GuidanceFlags
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import PlainData, ReadOnlyData

if TYPE_CHECKING:
    from skipguide.runs import Plan
    from skipguide.runs.engine import Engine
    from skipguide.runs.tracking import Tracking

_ADDRESS = r"auto|local|ray://\S+|[\w.-]+:[0-9]+"
# What of a video no setting has -> where it belongs.
_OF_PROMPTS = {
    "prompt": "Write it under prompts: in the plan, or into the file of --prompts.",
    "image": "Write it into an entry of prompts: in the plan, or into the file of --prompts.",
    "seed": "Write it under seeds: in the plan, or pass --seeds.",
}


Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="On Ray, one worker per GPU: a cluster (auto, HOST:PORT, ray://...), or local."
        " Needs skipguide[ray].",
        show_default="this process",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Workers on Ray.", show_default="one per GPU, else per CPU"),
]
GpusPerClip = Annotated[
    int,
    typer.Option(
        min=1,
        help="GPUs that divide the passes of each step of a clip, on Ray (CPUs where there is no"
        " GPU).",
    ),
]


def fill_in_address(args: Sequence[str]) -> list[str]:
    """Return a command line in which --ray has an address: auto, where it stands without one."""
    if "--ray" not in args:
        return list(args)
    after = args.index("--ray") + 1
    has_address = after < len(args) and re.fullmatch(_ADDRESS, args[after])
    return list(args) if has_address else [*args[:after], "auto", *args[after:]]


class SweepCommand(TyperCommand):
    """A command whose --ray may stand without an address.

    It then means the cluster around this machine, or a new one here.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line."""
        args = fill_in_address(args)
        self._refuse_settings(args)
        return super().parse_args(ctx, args)

    def _refuse_settings(self, args: list[str]) -> None:
        """Say where a setting of a video belongs, which is no option here.

        Raises:
            ValueError: if there is one.
        """
        own = {name for parameter in self.params for name in parameter.opts}
        known = {*GenerationSettings.model_fields, *GuidanceFlags.model_fields}
        for arg in args:
            flag = arg.partition("=")[0]
            name = flag.removeprefix("--").replace("-", "_")
            if flag.startswith("--") and flag not in own and name in known:
                advice = _OF_PROMPTS.get(
                    name,
                    f"Write {name}: into the plan or the file of --config, or {name}=... into"
                    " --setting.",
                )
                raise ValueError(
                    f"the settings of a sweep must stand in its plan, but got {flag}. {advice}"
                )


def sweep(
    plan: Annotated[
        Path | None,
        typer.Argument(
            help="The YAML file of prompts, seeds and settings; without one --prompts and"
            " --setting say them.",
            show_default=False,
        ),
    ] = None,
    prompts: PromptFile = None,
    seeds: PlanSeeds = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            help="Without PLAN: a setting, once for each, as 'cfg stg_scale=0' (a word without = is"
            " its name) or 'layers=8 stg_scale=1'.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Without PLAN: the model.", show_default="lab-mochi"),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config",
            "-c",
            metavar="PATH",
            help="Without PLAN: YAML file of what all settings share, as steps; or the base model"
            " of a single file.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The run directory.",
            show_default="runs/PLAN, or runs/PROMPTS",
            parser=parse_folder,
            metavar="PATH",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the plan, print what it costs, and stop.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also make what failed before.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Read all files of the run to see that they are what was written."
        ),
    ] = False,
    ray: Ray = None,
    workers: Workers = None,
    gpus_per_clip: GpusPerClip = 1,
    track: Track = None,
    as_json: Json = False,
) -> None:
    """Make all videos of a plan: every prompt, seed and setting.

    Run it again after whatever ended it: what is there stays, the rest is made. A changed plan adds
    to the run. A plan looks like this:

    \b
        model: lab-mochi
        prompts: ["a small red star", "a large blue moon"]
        seeds: [0, 1]
        steps: 28
        settings:
          - {name: cfg, guidance_scale: 4.5, stg_scale: 0}
          - {name: stg, guidance_scale: 4.5, layers: 8, stg_scale: 1}

    --prompts and --seeds stand in the place of what the plan says.
    """
    from skipguide.runs import Plan

    check_workers(ray, workers, gpus_per_clip)
    without = {"--setting": setting, "--model": model, "--config": config}
    wanted = (
        Plan.of(_plan_of_flags(prompts, seeds, setting, model, config))
        if plan is None
        else Plan.read(_check_alone(plan, without), plan_content(prompts, seeds, plan.parent))
    )
    named = plan or prompts
    assert named is not None
    folder = out or Path("runs") / named.stem
    rules: PlainData = {"retry_failed": retry_failed, "thorough": verify}
    with (
        open_tracking(folder, track) as tracking,
        contextlib.closing(make_engine(folder, ray, workers, gpus_per_clip)) as engine,
    ):
        if dry_run:
            _print_estimate(wanted, folder, engine, rules, as_json)
            return
        report = _make_all(wanted, folder, engine, rules, tracking, as_json)
    from skipguide.runs import picture_grid

    sheet = picture_grid.write(folder)
    shown = {} if sheet is None else {"grid": str(sheet)}
    lines = [report.summary(), *(f"all pictures: {path}" for path in shown.values())]
    summary = "\n".join([*lines, *tracking_lines(tracking)])
    payload = {**report.payload(), **shown, **tracking_payload(tracking)}
    console.print_result(summary, payload, as_json)
    if tracking.failed:
        raise typer.Exit(2)
    if report.failures or (report.planned and report.planned.failed):
        raise typer.Exit(1)


def _print_estimate(
    wanted: Plan, folder: Path, engine: Engine, rules: PlainData, as_json: bool
) -> None:
    from skipguide.runs import sweep as sweeping

    planned = sweeping.estimate(wanted, folder, engine, **rules)
    told = {"run": str(folder), "cost": estimate_payload(planned)}
    console.print_result(format_estimate(planned, folder), told, as_json)


def _make_all(
    wanted: Plan,
    folder: Path,
    engine: Engine,
    rules: PlainData,
    tracking: Tracking,
    quiet: bool,
) -> SweepReport:
    """Make what is missing, and log each clip to the trackers as it comes.

    Args:
        rules: `retry_failed` and `thorough`, see `runs.sweep`.
    """
    from skipguide.runs import sweep as sweeping

    report = SweepReport(quiet, folder)
    making = sweeping.sweep(wanted, folder, engine, **rules, on_step=report.on_step)
    with report.display("checking", keep=True), contextlib.closing(making) as happenings:
        for happening in happenings:
            report.handle(happening)
            if isinstance(happening, sweeping.ClipPublished):
                tracking.update([happening.job.key])
    tracking.update()
    return report


def _check_alone(plan: Path, others: ReadOnlyData) -> Path:
    """Return a plan, beside which options that stand for one may not be used.

    Raises:
        ValueError: if one is.
    """
    given = [name for name, value in others.items() if value]
    if given:
        raise ValueError(
            f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} for sweeps without a plan,"
            f" but got {plan} too. Write it into the plan, or leave the plan out."
        )
    return plan


def _plan_of_flags(
    prompts: Path | None,
    seeds: str | None,
    settings: list[str] | None,
    model: str | None,
    config: list[str] | None,
) -> PlainData:
    """Return the plan that options say.

    Raises:
        ValueError: without prompts or settings, or for what cannot be read.
    """
    missing = [name for name, value in (("--prompts", prompts), ("--setting", settings))
               if not value]  # fmt: skip
    if missing:
        raise ValueError(
            f"a sweep needs a plan, or --prompts and --setting, but got neither a plan nor"
            f" {' and '.join(missing)}. Name a plan, or add {' and '.join(missing)}."
        )
    return {
        **read_config(config),
        **({} if model is None else {"model": model}),
        **plan_content(prompts, seeds, Path()),
        "settings": [parse_setting(text) for text in settings or []],
    }


def check_workers(ray: str | None, workers: int | None, gpus_per_clip: int = 1) -> None:
    """Check that workers, or groups of GPUs, are asked for with Ray.

    Raises:
        ValueError: if they are not.
    """
    if workers is not None and ray is None:
        raise ValueError(f"--workers is for Ray, but got {workers} without --ray. Add --ray.")
    if gpus_per_clip != 1 and ray is None:
        raise ValueError(
            f"--gpus-per-clip is for Ray, but got {gpus_per_clip} without --ray. Add --ray."
        )


def make_engine(
    folder: Path, ray: str | None, workers: int | None, gpus_per_clip: int = 1
) -> Engine:
    """Return what makes the videos: Ray, or this process.

    Raises:
        ValueError: for workers without Ray, or a Ray that cannot be used.
    """
    check_workers(ray, workers, gpus_per_clip)
    if ray is not None:
        from skipguide.runs.ray_engine import RayEngine

        return RayEngine(ray, workers, gpus_per_clip)
    from skipguide.runs.local_engine import LocalEngine
    from skipguide.runs.storage import WORK

    return LocalEngine(folder / WORK)
