"""skipguide layers --map: scan all layers on the model's own trajectories, and rank them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipguide.cli import console, options
from skipguide.cli.families import Line, align_columns, print_lines
from skipguide.cli.tune_inputs import read_inputs
from skipguide.files.text import format_duration
from skipguide.method.protocols import PlainData, ReadOnlyData

if TYPE_CHECKING:
    from PIL import Image

    from skipguide.families.published_layers import BestLayers
    from skipguide.generate.settings import GenerationSettings
    from skipguide.runs.prompt_rows import Prompt
    from skipguide.tuning.scan.layer_map import LayerMap
    from skipguide.tuning.scan.published import Agreement
    from skipguide.tuning.scan.record import ScanOptions
    from skipguide.tuning.scan.run import ScanProgress

HEADINGS = (
    "rank", "cell", "score", "first three", "|d|/|c|", "hf", "cos d,c", "cos d,c-u", "cost",
    "cluster",
)  # fmt: skip
NOT_A_VERDICT = (
    "This is a ranking with its uncertainty and not a verdict: held against exhaustive"
    " searches, the first cells were among the best on some models and no better than the middle"
    " layer on another. `skipguide tune` races them against CFG alone."
)


@dataclass
class MapCommand:
    """One `skipguide layers --map`.

    Args:
        model: as the command line names it.
        file, given: settings of --config and of the command line.
        scan: which cells, and where on the trajectories.
        count: how many prompts are scanned.
        out: the folder of all files; None writes none.
        published: whether the map is compared with published best layers.
    """

    model: str
    file: ReadOnlyData
    given: ReadOnlyData
    scan: ScanOptions
    count: int
    out: Path | None
    published: bool
    quiet: bool
    notes: list[str] = field(default_factory=list)

    def run(self, prompts: Path | None, images: Path | None) -> None:
        """Scan and print; all that is wrong is said before any weight is read where it can be."""
        videos, best = self._prepare(prompts, images)
        found = self._scan(videos)
        agreement = self._compare(found, best)
        if self.out is not None:
            from skipguide.tuning.scan import map_files

            self.notes += map_files.write(found, self.out)
        if self.quiet:
            console.print_result("", self._payload(found, agreement), True)
        else:
            print_lines(list(self._lines(found, agreement)))

    # --- before the weights -----------------------------------------------------------------------

    def _prepare(
        self, prompts: Path | None, images: Path | None
    ) -> tuple[list[tuple[GenerationSettings, Image.Image | None]], BestLayers | None]:
        from skipguide.files import folders
        from skipguide.generate import preflight

        if self.out is not None:
            folders.check_writable(self.out, "--out")
        first = self._settings("a video", None, 0)
        skeleton = preflight.find_skeleton(first)
        best = None if skeleton is None else self._check_on(skeleton)
        videos = self._videos(skeleton, prompts, images)
        for settings, image in videos:
            preflight.check(settings, image)
        return videos, best

    def _check_on(self, pipe: Any) -> BestLayers | None:
        """Check layers, skips and axes; return the published layers if they are asked for."""
        from skipguide.families import presets, published_layers
        from skipguide.tuning.scan.trajectory import survey_cells

        survey_cells(pipe, self.scan)
        if not self.published:
            return None
        facts = presets.facts_of(pipe)
        return published_layers.find_best_layers(facts.family.name, facts.depth)

    def _settings(
        self, text: str | None, image: str | None, number: int, row: Prompt | None = None
    ) -> GenerationSettings:
        given: PlainData = {**self.given, "model": self.model, "stg_scale": 0.0}
        seed = given.pop("seed", 0)
        given["seed"] = seed + number if isinstance(seed, int) else seed
        if row is not None:
            given |= row.settings
            given |= {"seed": row.seeds[0]} if row.seeds else {}
        if image is not None:
            given["image"] = image
        return options.build_settings(self.file, given, text)

    def _videos(
        self, pipe: Any, prompts: Path | None, images: Path | None
    ) -> list[tuple[GenerationSettings, Image.Image | None]]:
        """Return the settings and first frames of the videos whose trajectories are scanned."""
        from skipguide.files import image as image_file
        from skipguide.generate.resolve import call_parameters, requires_image
        from skipguide.runs.prompt_rows import Prompt
        from skipguide.tuning.scan import inputs as scan_inputs

        takes_text = pipe is None or "prompt" in call_parameters(pipe)
        usual = scan_inputs.usual_prompts(pipe) if takes_text and prompts is None else ()
        rows = [Prompt(None)] * self.count
        if prompts is not None or images is not None:
            rows, said = read_inputs(prompts, images)
            self.notes += [*said, *_check_rows(rows[: self.count])]
        videos = []
        for k, row in enumerate(rows[: self.count]):
            text = row.text or (usual[k % len(usual)] if usual else None)
            path = row.image or self.given.get("image")
            picture, name = None, None
            if path is not None:
                picture, name = image_file.read(Path(path)), str(path)
            elif pipe is not None and requires_image(pipe):
                picture, name = scan_inputs.gradient(k), f"gradient-{k}.png"
                if scan_inputs.GRADIENT_NOTE not in self.notes:
                    self.notes.append(scan_inputs.GRADIENT_NOTE)
            videos.append((self._settings(text, name, k, row), picture))
        return videos

    # --- the scan ---------------------------------------------------------------------------------

    def _scan(self, videos: Sequence[tuple[GenerationSettings, Image.Image | None]]) -> LayerMap:
        from skipguide.generate.resolve import resolve_settings
        from skipguide.models import loading
        from skipguide.tuning.scan import run as scan_run
        from skipguide.tuning.scan.layer_map import LayerMap

        settings = videos[0][0]
        with loading.hash_meanwhile(settings):
            pipe = loading.load(settings)
            weights = loading.weights_fingerprint(settings, pipe)
        subjects = [
            scan_run.subject_of_video(
                pipe, resolve_settings(video, pipe), image, self.scan, weights
            )
            for video, image in videos
        ]
        folder = None if self.out is None else self.out / "scan"
        report = _Progress(self.quiet)
        with report.display("scanning", len(subjects)):
            records = scan_run.scan_subjects(
                pipe, subjects, self.scan, folder, report.tell, self.notes.append
            )
        return LayerMap.build(records)

    def _compare(self, found: LayerMap, best: BestLayers | None) -> Agreement | None:
        if not self.published:
            return None
        from skipguide.families import published_layers
        from skipguide.tuning.scan import published

        known = best or published_layers.find_best_layers(found.family, found.depth)
        return published.compare(found, known)

    # --- what it says -----------------------------------------------------------------------------

    def _payload(self, found: LayerMap, agreement: Agreement | None) -> PlainData:
        return {
            "model": self.model,
            **json.loads(found.to_json()),
            "notes": self.notes,
            "published": None if agreement is None else agreement.to_dict(),
            "out": None if self.out is None else str(self.out),
        }

    def _lines(self, found: LayerMap, agreement: Agreement | None) -> Iterator[Line]:
        yield "dim", describe(self.model, found)
        heading, *rows = align_columns([HEADINGS, *_rows(found)])
        yield "bold", heading
        shortlist = {cell.name for cell in found.shortlist()}
        order = [k for k in found.order if not found.kinds[k]]
        for k, row in zip(order, rows, strict=True):
            yield "green" if found.cells[k].name in shortlist else "", row
        for line in summary(found):
            yield "", line
        for text in agreement.sentences() if agreement else ():
            yield "", text
        yield "", NOT_A_VERDICT
        for note in self.notes:
            yield "dim", f"note: {note}"
        if self.out is not None:
            yield "", f"the map is in {self.out} (map.csv, map.json, map.png)."


def _check_rows(rows: Sequence[Prompt]) -> list[str]:
    """Check what rows of --prompts have of their own; return what is to be said of it.

    Raises:
        ValueError: for settings that all trajectories of a map must share.
    """
    from skipguide.tuning.options import check_own_settings

    for row in rows:
        check_own_settings(row, "the trajectories of a map")
    if any(len(row.seeds) > 1 for row in rows):
        return ["the scan looks at one video of each prompt: of several seeds at the first"]
    return []


def describe(model: str, found: LayerMap) -> str:
    """Return what was scanned, and what it cost."""
    levels = ", ".join(f"{level:g}" for level in found.levels)
    seconds = found.seconds_strong + found.seconds_weak
    return (
        f"{model}: {found.denoiser} ({found.family}), {len(found.cells)} cells, {found.prompts}"
        f" prompt{'s' * (found.prompts > 1)} at shares of noise {levels};"
        f" {found.forwards:.0f} forward passes of weak ones, {format_duration(seconds)}"
    )


def summary(found: LayerMap) -> list[str]:
    """Return the shortlist, and which cells are left out and why."""
    from skipguide.tuning.scan import ranking

    names = ", ".join(cell.name for cell in found.shortlist()) or "none"
    lines = [f"shortlist: {names}"]
    if passed := [f"{name} ({why})" for name, why in found.passed_over().items()]:
        lines.append(f"passed over: {', '.join(passed)}")
    left_out = {
        "idle": f"idle, their push is below {ranking.IDLE} of |c|",
        "broken": f"broken, their push is above {ranking.BROKEN} of |c|",
        "edge": "the first two layers, left out where there are others",
    }
    for kind, words in left_out.items():
        cells = [cell.name for cell, k in zip(found.cells, found.kinds, strict=True) if k == kind]
        if cells:
            lines.append(f"{kind} ({words}): {', '.join(cells)}")
    return lines


def _rows(found: LayerMap) -> list[tuple[str, ...]]:
    return [_row(found, k) for k in found.order if not found.kinds[k]]


def _row(found: LayerMap, k: int) -> tuple[str, ...]:
    low, high = found.rank_low[k], found.rank_high[k]
    between = "" if low != low else f" ({low:.0f}-{high:.0f})"
    means = found.means
    return (
        f"{found.rank[k]:.0f}{between}",
        found.cells[k].name,
        _number(found.score[k]),
        _number(found.first_three[k]),
        *(_number(means[name][k]) for name in ("ratio", "hf", "cos_c", "cos_cfg")),
        _number(found.costs[k]),
        str(found.clusters[k]),
    )


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.2f}"


@dataclass
class _Progress(console.ClipCounter):
    """The report on a scan: a bar on a terminal, a line for each prompt else."""

    def tell(self, progress: ScanProgress) -> None:
        """Show a state that is done."""
        left = progress.seconds_left
        time_left = "" if left is None else f", about {format_duration(left)} left"
        done = progress.states == progress.of
        if progress.kept:
            text = f"prompt {progress.prompt} of {progress.prompts} was scanned already"
        else:
            text = (
                f"prompt {progress.prompt} of {progress.prompts}, state {progress.states} of"
                f" {progress.of}{time_left}"
            )
        self.update(completed=progress.prompt - (not done), state=text)
        if self.bar is None and done:
            self.print_line(text)
