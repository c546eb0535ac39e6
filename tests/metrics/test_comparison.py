"""`skipguide runs compare`: the settings of a run against a baseline, as data and as files."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from skipguide.cli import app
from skipguide.metrics import evaluation, kept
from skipguide.metrics.comparison import Comparison, compare, data, latex, layout, markdown, page
from skipguide.metrics.frechet import Moments, frechet_distance
from skipguide.runs import Run, SetMetric, Vote
from skipguide.runs.jobs import ResolvedSetting
from skipguide.runs.plan import Setting
from skipguide.stats import jackknife
from support.drawn import Drawn, plan_with, swept
from support.measured import clips, write

# scipy 1.17: ttest_rel of these, with its confidence interval
FIRST = [1.3, -0.04, 1.75, 1.94, -0.95, -0.3, 1.13, 0.68, 0.98]
SECOND = [0.47, 0.0, 1.74, 1.57, -0.79, -0.47, 0.3, 0.46, 0.1]
T_TEST_P, T_TEST_INTERVAL = 0.034013221201545055, (0.03343678343495754, 0.6576743276761534)
PROMPTS = [f"prompt {i}" for i in range(9)]
STG = {"name": "stg", "stg": {"layers": [1], "scale": 1.0}}
CFG, HIGH = {"name": "cfg", "guidance_scale": 4.0}, {"name": "cfg 9", "guidance_scale": 9.0}


def run_cli(*args: object, code: int = 0) -> Result:
    found = CliRunner().invoke(app, [str(arg) for arg in args])
    assert found.exit_code == code, found.output
    return found


@pytest.fixture(scope="module")
def swept_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three settings of nine prompts with one seed."""
    folder = tmp_path_factory.mktemp("compared") / "run"
    swept(folder, plan_with(STG, CFG, HIGH, prompts=PROMPTS, seeds=[0]))
    return folder


@pytest.fixture
def folder(swept_run: Path, tmp_path: Path) -> Path:
    """A copy of it, to measure."""
    return Path(shutil.copytree(swept_run, tmp_path / "run"))


def record(folder: Path, name: str, values: Mapping[str, Sequence[float]]) -> None:
    """Keep a number for each clip of some settings, in the order of the prompts."""
    with Run.open(folder, writable=True) as run:
        ids = {setting.name: setting.id for setting in run.settings()}
        for setting, numbers in values.items():
            clips = [clip for clip in run.clips("done") if clip.setting == ids[setting]]
            clips.sort(key=lambda clip: (clip.prompt, clip.seed))
            pairs = zip(clips, numbers, strict=True)
            run.record_metrics((clip.key, name, value) for clip, value in pairs)


def record_set(
    folder: Path, name: str, setting: str, value: float, without: Sequence[Sequence[float]],
    reference: str = "", count: int | None = None,
) -> None:  # fmt: skip
    with Run.open(folder, writable=True) as run:
        found = next(one for one in run.settings() if one.name == setting)
        keys = [clip.key for clip in run.clips("done") if clip.setting == found.id][:count]
        run.record_set_metric(SetMetric(found.id, name, value, len(keys), value - 1, value + 1))
        kept.keep(run, found.id, name, value, map(np.asarray, without), keys, reference)


def table_of(folder: Path, *args: Any, **options: Any) -> Comparison:
    with Run.open(folder) as run:
        return compare(run, *args, **options)


# --- the numbers ----------------------------------------------------------------------------------


def test_a_difference_is_the_paired_t_test(folder: Path) -> None:
    record(folder, "sharpness", {"stg": FIRST, "cfg": SECOND})
    found = table_of(folder)
    row = _row(found, "stg", "sharpness")
    assert row.baseline == "cfg"  # the first one with CFG alone
    assert row.mean == pytest.approx(np.mean(FIRST))
    assert row.diff == pytest.approx(np.mean(FIRST) - np.mean(SECOND))
    assert (row.diff_low, row.diff_high) == pytest.approx(T_TEST_INTERVAL, rel=1e-9)
    assert row.p == pytest.approx(T_TEST_P, rel=1e-9)
    assert row.p_adjusted == pytest.approx(T_TEST_P, rel=1e-9)  # of one comparison
    assert (row.n_prompts, row.n_clips) == (9, 9)
    base = _row(found, "cfg", "sharpness")
    assert (base.is_baseline, base.diff, base.p) == (True, None, None)
    nothing = _row(found, "cfg 9", "sharpness")
    assert nothing.mean is None
    assert any("sharpness" in note and "not measured for cfg 9" in note for note in found.notes)


def _row(table: Comparison, setting: str, metric: str) -> Any:
    return table.row(table.models[0], setting, metric)


def test_p_values_are_corrected_over_the_table_or_the_metric(folder: Path) -> None:
    shifted = [value + 0.001 * i for i, value in enumerate(FIRST)]
    record(folder, "sharpness", {"stg": FIRST, "cfg": SECOND, "cfg 9": SECOND[::-1]})
    record(folder, "motion", {"stg": shifted, "cfg": SECOND, "cfg 9": FIRST})
    rows = {
        adjust: [row for row in table_of(folder, adjust=adjust).rows if row.p is not None]
        for adjust in ("table", "metric", "none")
    }
    p = [row.p or 0 for row in rows["table"]]
    assert len(p) == 4
    # Holm by hand: the smallest times 4, the next times 3, ..., never falling.
    order = np.argsort(p)
    steps = np.maximum.accumulate([(4 - k) * p[i] for k, i in enumerate(order)])
    found = [rows["table"][i].p_adjusted for i in order]
    assert found == pytest.approx(np.minimum(steps, 1))
    motion = [row for row in rows["metric"] if row.metric == "motion"]
    low, high = sorted(row.p or 0 for row in motion)
    assert sorted(row.p_adjusted or 0 for row in motion) == pytest.approx(
        [2 * low, max(2 * low, high)]
    )
    assert all(row.p_adjusted is None for row in rows["none"])


def test_seeds_of_a_prompt_are_one_cluster(tmp_path: Path) -> None:
    swept(tmp_path, plan_with(CFG, HIGH, prompts=PROMPTS, seeds=[0, 1]))
    twice = {
        name: np.repeat(values, 2) + np.tile([0.2, -0.2], 9)
        for name, values in (("cfg 9", FIRST), ("cfg", SECOND))
    }
    record(tmp_path, "sharpness", {name: list(values) for name, values in twice.items()})
    row = _row(table_of(tmp_path), "cfg 9", "sharpness")
    assert (row.n_prompts, row.n_clips) == (9, 18)
    assert row.p == pytest.approx(T_TEST_P, rel=1e-9)


def test_bold_is_the_best_and_what_cannot_be_told_from_it(folder: Path) -> None:
    near = [value + (0.3 if i % 2 else -0.3) for i, value in enumerate(FIRST)]
    far = [value - 2.0 - 0.01 * i for i, value in enumerate(FIRST)]
    record(folder, "motion_smoothness", {"stg": FIRST, "cfg": near, "cfg 9": far})
    record(folder, "unknown", {"stg": FIRST, "cfg": near, "cfg 9": far})
    found = table_of(folder)
    bold = {name: _row(found, name, "motion_smoothness").bold for name in ("stg", "cfg", "cfg 9")}
    assert bold == {"stg": True, "cfg": True, "cfg 9": False}
    # Of a measure of which nobody knows what is better, nothing is the best; nor of a cost.
    for metric in ("unknown", "passes_per_step", "seconds_per_step"):
        assert all(_row(found, name, metric).bold is None for name in bold)


def test_costs_have_their_ratio_to_the_baseline(folder: Path) -> None:
    found = table_of(folder, metrics=["cost"])
    assert found.metrics == ["passes_per_step", "seconds_per_step"]
    row = _row(found, "stg", "passes_per_step")
    assert (row.mean, row.ratio, row.p) == (2.0, 1.0, None)
    assert any("nothing is measured" in note for note in table_of(folder).notes)


# --- what is whole --------------------------------------------------------------------------------


def test_only_prompts_and_seeds_that_all_settings_have_are_compared(tmp_path: Path) -> None:
    swept(tmp_path, plan_with(CFG, STG, prompts=PROMPTS, seeds=[0]))
    swept(tmp_path, plan_with(HIGH, prompts=PROMPTS[:6], seeds=[0]))
    swept(tmp_path, plan_with(CFG, prompts=PROMPTS[:1], seeds=[0, 1]), fails=1)
    record(tmp_path, "sharpness", {"cfg": FIRST, "stg": SECOND, "cfg 9": FIRST[:6]})
    found = table_of(tmp_path)
    row = _row(found, "stg", "sharpness")
    assert (row.n_prompts, row.n_clips) == (6, 6)
    assert row.mean == pytest.approx(np.mean(SECOND[:6]))
    notes = "\n".join(found.notes)
    assert "cfg: 9 of 10 videos (1 failed)." in notes
    assert "compared on the 6 pairs of prompt and seed" in notes
    assert "the fewest has cfg 9" in notes
    # Without the setting that lacks some, all others count.
    some = table_of(tmp_path, settings=["cfg", "stg"])
    assert _row(some, "stg", "sharpness").n_clips == 9
    assert some.settings(some.models[0]) == ["cfg", "stg"]


def test_a_clip_without_a_number_is_left_out_of_all_settings(folder: Path) -> None:
    record(folder, "sharpness", {"stg": FIRST, "cfg": SECOND, "cfg 9": FIRST})
    record(folder, "motion", {"stg": FIRST, "cfg": [*SECOND[:8], float("nan")], "cfg 9": FIRST})
    found = table_of(folder)
    assert _row(found, "stg", "sharpness").n_clips == 9
    assert _row(found, "stg", "motion").n_clips == 8
    assert any("motion of" in note and "the 8 of 9 videos" in note for note in found.notes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"baseline": "nix"}, "the baseline must be a setting of the run, but got 'nix'. It has"),
        ({"settings": ["x*"]}, "settings must be names or patterns of names, but 'x\\*' fits none"),
        ({"metrics": ["fvd"]}, "metrics must be among those that were measured, but 'fvd' is not"),
        ({"adjust": "all"}, "adjust must be one of table, metric, none, but got 'all'"),
    ],
)
def test_what_is_not_there_is_refused(folder: Path, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        table_of(folder, **options)


def test_models_are_compared_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def survey(self: Drawn, settings: Sequence[Setting], image: Any) -> list[ResolvedSetting]:
        """Give each model weights of its own, so that their clips are not the same."""
        weights = [{"sha256": setting.generation.model} for setting in settings]
        pairs = zip(settings, weights, strict=True)
        return [ResolvedSetting(one, self._filled(one), sha) for one, sha in pairs]

    monkeypatch.setattr(Drawn, "survey", survey)
    both = [CFG, HIGH, {**STG, "model": "lab-mochi"}]
    models = ["lab-mochi", "lab-opensora"]
    swept(tmp_path, plan_with(*both, model=models, prompts=PROMPTS, seeds=[0]))
    found = table_of(tmp_path)
    assert found.models == models
    assert found.settings("lab-opensora") == ["cfg", "cfg 9"]
    assert {row.baseline for row in found.rows} == {"cfg"}
    titles = [panel.title for panel in layout.panels(found)]
    assert titles == models  # nothing is measured, so that there are no differences
    other = table_of(tmp_path, baseline="stg")
    assert any("lab-opensora has no videos of stg" in note for note in other.notes)
    assert {row.baseline for row in other.rows if row.model == "lab-opensora"} == {None}


def test_settings_of_other_weights_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for weights in ("old", "new"):
        monkeypatch.setattr(
            Drawn,
            "survey",
            lambda self, settings, image, sha=weights: [
                ResolvedSetting(one, self._filled(one), {"sha256": sha}) for one in settings
            ],
        )
        swept(tmp_path, plan_with(CFG, STG, prompts=PROMPTS, seeds=[0]))
    found = table_of(tmp_path)
    assert found.settings("lab-mochi") == ["cfg", "stg"]
    assert len(found.rows) == 2 * len(found.metrics)
    assert any("different weights: the newest are compared" in note for note in found.notes)


def test_the_baseline_alone_can_be_asked_for(folder: Path) -> None:
    found = table_of(folder, settings=["cfg"])
    assert found.settings(found.models[0]) == ["cfg"]


# --- sets -----------------------------------------------------------------------------------------


def test_sets_on_the_same_prompts_have_a_difference(folder: Path) -> None:
    """The replicates of a mean are those of the paired t test."""

    def without(values: Sequence[float]) -> list[float]:
        return [float(np.delete(values, i).mean()) for i in range(len(values))]

    for name, values in (("stg", FIRST), ("cfg", SECOND)):
        record_set(folder, "fvd:judge", name, float(np.mean(values)), [without(values)], "ab")
    row = _row(table_of(folder), "stg", "fvd:judge")
    assert (row.statistic, row.better, row.n_clips) == ("value", "lower", 9)
    assert (row.diff_low, row.diff_high) == pytest.approx(T_TEST_INTERVAL, rel=1e-9)
    assert row.p == pytest.approx(T_TEST_P, rel=1e-9)
    assert row.bold is False  # lower is better


def test_sets_of_other_videos_or_references_are_not_compared(folder: Path) -> None:
    groups = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]]
    record_set(folder, "vendi:judge", "cfg", 2.0, groups)
    record_set(folder, "vendi:judge", "stg", 3.0, [[2.0 * x for x in groups[0]]], count=5)
    record_set(folder, "fvd:judge", "cfg", 2.0, groups, "aa")
    record_set(folder, "fvd:judge", "stg", 3.0, [[2.0 * x for x in groups[0]]], "bb")
    found = table_of(folder)
    assert _row(found, "stg", "vendi:judge").mean is None
    assert _row(found, "cfg", "vendi:judge").mean == 2.0
    fvd = _row(found, "stg", "fvd:judge")
    assert (fvd.mean, fvd.diff) == (3.0, None)
    notes = "\n".join(found.notes)
    assert "vendi:judge of" in notes
    assert "is of 5 videos, not of the 9 that are compared: skipguide evaluate" in notes
    assert "different references" in notes
    assert f"skipguide evaluate {folder} --reference DIR --metrics fvd:judge" in notes


def test_a_set_of_videos_that_were_made_again_is_left_out(folder: Path) -> None:
    record_set(folder, "vendi:judge", "stg", 3.0, [[float(i) for i in range(8)]])
    plan = plan_with(STG, CFG, HIGH, prompts=PROMPTS, seeds=[0])
    swept(folder, plan, version="2")  # of a library
    with Run.open(folder) as run:
        assert len({clip.key for clip in run.clips()}) == 27
    found = table_of(folder)
    assert _row(found, "stg", "vendi:judge").mean is None
    assert any("stg is of videos that were made again since" in note for note in found.notes)


def test_merged_runs_still_have_differences(folder: Path, tmp_path: Path) -> None:
    groups = [float(i) for i in range(8)]
    for name, value in (("stg", 3.0), ("cfg", 2.0)):
        record_set(folder, "fvd:judge", name, value, [[value * x for x in groups]], "ab")
    before = _row(table_of(folder), "stg", "fvd:judge")
    other = tmp_path / "other"
    swept(other, plan_with(CFG, prompts=PROMPTS, seeds=[0]))
    run_cli("runs", "merge", other, folder, "--out", tmp_path / "all")
    after = _row(table_of(tmp_path / "all"), "stg", "fvd:judge")
    assert before.diff is not None
    assert (after.diff, after.p) == (before.diff, before.p)


def test_numbers_of_older_versions_have_their_interval_and_no_difference(folder: Path) -> None:
    with Run.open(folder, writable=True) as run:
        for setting in run.settings():
            run.record_set_metric(SetMetric(setting.id, "fvd:i3d", 100.0, 9, 90.0, 110.0))
    found = table_of(folder)
    row = _row(found, "stg", "fvd:i3d")
    assert (row.mean, row.low, row.high, row.diff, row.bold) == (100.0, 90.0, 110.0, None, None)
    assert any("measured by an older version" in note for note in found.notes)


# --- votes ----------------------------------------------------------------------------------------


def vote(folder: Path, question: str, answers: Sequence[tuple[str, str, int, str]]) -> None:
    """Let rater after rater say which of two settings is better on the video of a prompt."""
    with Run.open(folder, writable=True) as run:
        names = {setting.id: setting.name for setting in run.settings()}
        prompts = sorted({clip.prompt for clip in run.clips()})
        keys = {(names[c.setting], prompts.index(c.prompt)): c.key for c in run.clips()}
        for i, (one, other, prompt, winner) in enumerate(answers):
            first, second = sorted((keys[one, prompt], keys[other, prompt]))
            answer = winner
            if winner != "tie":
                answer = "first" if keys[winner, prompt] == first else "second"
            run.vote(Vote(f"rater {i}", "pair", question, first, second, answer, "first"))


def test_votes_are_wins_against_the_baseline_and_strengths(folder: Path) -> None:
    """One vote per prompt, 8 of 9 won: scipy.stats.binomtest(8, 9) is 0.0390625."""
    answers = [("stg", "cfg", prompt, "stg" if prompt else "cfg") for prompt in range(9)]
    vote(folder, "better?", answers)
    found = table_of(folder)
    assert found.metrics[:2] == ["wins: better?", "strength: better?"]
    row = _row(found, "stg", "wins: better?")
    assert (row.mean, row.diff) == pytest.approx((8 / 9, 8 / 9 - 0.5))
    assert row.p == pytest.approx(0.0390625, rel=1e-6)
    assert (row.n_prompts, row.n_clips) == (9, 9)
    assert _row(found, "cfg", "wins: better?").mean == 0.5
    strength = _row(found, "stg", "strength: better?")
    assert strength.mean > 0 > _row(found, "cfg", "strength: better?").mean
    assert strength.diff == pytest.approx(2 * strength.mean)
    assert strength.p is None  # tested by its wins
    assert _row(found, "cfg 9", "strength: better?").mean is None


def test_strengths_that_cannot_be_told_from_that_of_the_baseline_are_bold(folder: Path) -> None:
    winners = ["cfg", "stg", "cfg", "stg", "cfg", "stg", "cfg", "stg", "cfg"]
    answers = [("stg", "cfg", prompt, winner) for prompt, winner in enumerate(winners)]
    vote(folder, "better?", answers)
    found = table_of(folder)
    assert _row(found, "cfg", "strength: better?").mean > 0  # the best, and the baseline
    bold = {name: _row(found, name, "strength: better?").bold for name in ("cfg", "stg", "cfg 9")}
    assert bold == {"cfg": True, "stg": True, "cfg 9": None}


def test_ratings_are_compared_video_by_video(folder: Path) -> None:
    with Run.open(folder, writable=True) as run:
        names = {setting.id: setting.name for setting in run.settings()}
        for clip in run.clips():
            if names[clip.setting] != "cfg 9":
                points = 4 if names[clip.setting] == "stg" else 2 + clip.prompt % 2
                run.vote(Vote("ann", "rating", "quality", clip.key, None, str(points)))
    row = _row(table_of(folder), "stg", "rating: quality")
    assert row.mean == 4.0
    assert 1 < row.diff < 2
    assert row.p < 0.001


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def full(folder: Path) -> Comparison:
    """A comparison with every kind of column, and names that every format must escape."""
    record(folder, "motion_smoothness", {"stg": FIRST, "cfg": SECOND, "cfg 9": FIRST[::-1]})
    groups = [[float(i) for i in range(8)]]
    for name, value in (("stg", 3.0), ("cfg", 2.0), ("cfg 9", 1.0)):
        record_set(folder, "fvd:judge", name, value, [[x * value for x in groups[0]]], "ab")
    vote(folder, "which is better?", [("stg", "cfg", prompt, "stg") for prompt in range(9)])
    table = table_of(folder)
    names = {
        "stg": "a_b & 50% {c} \\d #1 ~x^2 $y$ <i>|</i> -- ?` \N{FOX FACE} \u65e5 \u00e9 \u03b1",
        "cfg": "cfg *plain*", "cfg 9": "two\nlines",
    }  # fmt: skip
    rows = [
        replace(row, setting=names[row.setting], baseline=names[row.baseline or "cfg"])
        for row in table.rows
    ]
    return replace(table, rows=tuple(rows), notes=("100 % of <b> is missing\nhere",))


def test_latex_is_sound(full: Comparison) -> None:
    text = latex.write_latex(full)
    assert text.isascii()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert all(line.isprintable() for line in text.splitlines())
    for name in ("table*", "tabular"):
        assert body.count(rf"\begin{{{name}}}") == body.count(rf"\end{{{name}}}") == 1
    bare = re.sub(r"\\[\\{}$&%#_]", "", body)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert "#" not in bare
    assert "%" not in bare
    assert not re.search(r"_(?!\{)", bare.replace("^{*}", ""))
    rows = [line for line in bare.splitlines() if "&" in line]
    columns = len(full.metrics) + 1
    assert {line.count("&") + 1 for line in rows} == {columns}
    assert body.count(r"\toprule") == body.count(r"\bottomrule") == 1
    assert r"a\_b \& 50\% \{c\} \textbackslash{}d \#1" in text
    assert r"-{}- ?{}` (fox face) U+65E5 \'{e} $\alpha$" in text
    assert r"motion\\smoothness~$\uparrow$" in text
    assert r"fvd:\\judge~$\downarrow$" in text
    assert "corrected by Holm over all" in text
    assert r"\textbf{" in text


def test_wide_latex_is_divided(folder: Path) -> None:
    for i in range(9):
        record(folder, f"measure {i}", dict.fromkeys(("stg", "cfg", "cfg 9"), FIRST))
    text = latex.write_latex(table_of(folder))
    blocks = re.findall(r"\\begin\{tabular\}\{@\{\}l(r+)@\{\}\}(.*?)\\end\{tabular\}", text, re.S)
    assert [len(columns) for columns, _ in blocks] == [6, 5]  # nine, passes and seconds
    for columns, block in blocks:
        rows = [line for line in block.splitlines() if "&" in line]
        assert {line.count("&") for line in rows} == {len(columns)}
    assert all(text.count(rf"measure\\{i}") == 1 for i in range(9))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX here")
def test_latex_compiles(full: Comparison, tmp_path: Path) -> None:
    document = "\n".join(
        [
            r"\documentclass{article}", r"\usepackage{booktabs}", r"\begin{document}",
            latex.write_latex(full), r"\end{document}",
        ]
    )  # fmt: skip
    (tmp_path / "t.tex").write_text(document, encoding="ascii")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-output-format=dvi"]
    done = subprocess.run(
        [*command, "t.tex"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]


class _Page(html.parser.HTMLParser):
    """The rows of a page, and what it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [name for name, _ in attrs if name in ("src", "href", "srcset")]
        if tag == "meta":
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if any(tag in ("td", "th") for tag in self.open):
            self.rows[-1][-1] += data


def test_the_page_needs_nothing_and_has_every_cell(full: Comparison) -> None:
    text = page.write_page(full)
    found = _Page()
    found.feed(text)
    assert found.open == []
    assert found.fetched == []
    assert "url(" not in text
    assert "<script" not in text
    assert {len(row) for row in found.rows} == {1, len(full.metrics) + 1}
    names = [row[0] for row in found.rows]
    assert all(name in names for name in full.settings(full.models[0]))
    assert "100 % of &lt;b&gt; is missing" in text


def test_markdown_has_every_cell_in_its_column(full: Comparison) -> None:
    lines = [line for line in markdown.write_markdown(full).splitlines() if line.startswith("|")]
    cells = {len(re.split(r"(?<!\\)\|", line)) - 2 for line in lines}
    assert cells == {len(full.metrics) + 1}
    assert r"cfg \*plain\*" in lines[3]
    assert "two lines" in lines[4]


def test_csv_and_parquet_have_the_same_rows(full: Comparison, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(data.write_csv(full))))
    assert len(rows) == 3 * len(full.metrics)
    first = next(row for row in rows if row["p"])
    wanted = next(row for row in full.rows if row.p is not None)
    assert float(first["p"]) == wanted.p
    assert (first["setting"], first["metric"]) == (wanted.setting, wanted.metric)
    parquet = pytest.importorskip("pyarrow.parquet")
    data.write_parquet(full, tmp_path / "t.parquet")
    read = parquet.read_table(tmp_path / "t.parquet")
    assert read.column_names == list(data.COLUMNS) == list(rows[0])
    kinds = {field.name: str(field.type) for field in read.schema}
    assert (kinds["p"], kinds["n_clips"], kinds["bold"]) == ("double", "int64", "bool")
    assert (kinds["setting"], kinds["diff"]) == ("string", "double")
    for one, other in zip(read.to_pylist(), rows, strict=True):
        for name, value in one.items():
            if isinstance(value, bool):
                assert other[name] == str(value).lower()
            elif isinstance(value, (int, float)):
                assert float(other[name]) == value
            else:
                assert other[name] == (value or "")
    said = json.loads(read.schema.metadata[b"skipguide"])
    assert said["notes"] == list(full.notes)
    assert said["caption"] == layout.caption(full)


def test_digits_are_those_that_the_interval_knows(folder: Path) -> None:
    record(folder, "sharpness", {"stg": [1000 * x for x in FIRST], "cfg": SECOND, "cfg 9": FIRST})
    record(folder, "tiny", {name: [x / 1000 for x in FIRST] for name in ("stg", "cfg", "cfg 9")})
    found = table_of(folder, metrics=["tiny"])
    value = layout.panels(found)[0].rows[0][1][0]
    assert value.value == "0.00072"
    assert re.fullmatch(r"-0\.000\d\d, 0\.001\d\d", value.interval)


# --- the command line -----------------------------------------------------------------------------


def test_every_format_is_written_at_once(folder: Path, tmp_path: Path) -> None:
    record(folder, "motion_smoothness", {"stg": FIRST, "cfg": SECOND, "cfg 9": FIRST})
    endings = ["md", "tex", "csv", "html"]
    outs = [tmp_path / f"t.{ending}" for ending in endings]
    options = [option for out in outs for option in ("--out", out)]
    said = run_cli("runs", "compare", folder, *options).stdout
    assert "Difference from cfg" in said
    assert all(out.read_text("utf-8") for out in outs)
    again = run_cli("runs", "compare", folder, *options, code=2).stderr
    assert "exists. Pass --overwrite" in again
    run_cli("runs", "compare", folder, *options, "--overwrite")
    assert not list(tmp_path.glob(".*part"))
    told = json.loads(
        run_cli("runs", "compare", folder, "--metrics", "motion_smoothness", "--json").stdout
    )
    assert [row["setting"] for row in told["rows"]] == ["stg", "cfg", "cfg 9"]
    assert told["comparisons"] == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--out", "t.docx"], "--out must be named .md, .tex, .csv, .parquet, .html, but got"),
        (["--adjust", "x"], "--adjust must be one of table, metric, none, but got 'x'"),
        (["--baseline", "x"], "the baseline must be a setting of the run"),
    ],
)
def test_the_command_refuses(folder: Path, args: Sequence[str], said: str) -> None:
    assert said in " ".join(run_cli("runs", "compare", folder, *args, code=2).stderr.split())


def test_a_run_without_videos_is_refused(tmp_path: Path) -> None:
    swept(tmp_path, plan_with(CFG, prompts=["a"], seeds=[1]), fails=1)
    said = run_cli("runs", "compare", tmp_path, code=2).stderr
    assert "a run must have videos to compare" in said


def test_the_export_has_metrics_of_sets_and_votes(folder: Path, tmp_path: Path) -> None:
    record_set(folder, "fvd:judge", "stg", 3.0, [])
    vote(folder, "better?", [("stg", "cfg", 0, "stg"), ("stg", "cfg", 0, "tie")])
    with Run.open(folder, writable=True) as run:
        key = next(clip.key for clip in run.clips())
        run.vote(Vote("ann", "rating", "quality", key, None, "4"))
        run.vote(Vote("bob", "rating", "quality", key, None, "1"))
    run_cli("runs", "export", folder, "--out", tmp_path / "clips.csv")
    with (tmp_path / "clips.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def of(name: str) -> list[dict[str, str]]:
        return [row for row in rows if row["setting"] == name]

    assert {row["set_metric.fvd:judge"] for row in of("stg")} == {"3.0"}
    assert {row["set_metric.fvd:judge.low"] for row in of("stg")} == {"2.0"}
    assert {row["set_metric.fvd:judge"] for row in of("cfg")} == {""}
    judged = [row for row in rows if row["vote.better?.ties"]]
    counts = {
        row["setting"]: (row["vote.better?.wins"], row["vote.better?.losses"]) for row in judged
    }
    assert counts == {"stg": ("1", "0"), "cfg": ("0", "1")}
    rated = next(row for row in rows if row["key"] == key)
    assert (rated["rating.quality"], rated["rating.quality.count"]) == ("2.5", "2")


# --- after an evaluation --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two settings of nine prompts, and a reference."""
    folder = tmp_path_factory.mktemp("evaluated")
    swept(folder / "run", plan_with(CFG, HIGH, prompts=PROMPTS, seeds=[0], height=64, width=64))
    for name, clip in clips(9, seed=2).items():
        write(folder / "real" / f"{name}.mp4", clip)
    _replace_frames(folder / "run")
    return folder / "run", folder / "real"


def _replace_frames(folder: Path) -> None:
    """Give the settings clips of the lab's world, because drawn ones are the same everywhere."""
    with Run.open(folder) as run:
        for seed, setting in enumerate(run.settings(), 5):
            own = [clip.video for clip in run.clips("done") if clip.setting == setting.id]
            for path, clip in zip(own, clips(9, seed=seed).values(), strict=True):
                assert path is not None
                write(path, clip[:3])


def test_an_evaluation_keeps_what_differences_need(evaluated: tuple[Path, Path]) -> None:
    """The jackknife of the difference itself, from the features, is the oracle."""
    folder, real = evaluated
    with Run.open(folder, writable=True) as run:
        found = {}
        for setting, result in evaluation.evaluate_run(run, real, ["fvd:judge"]):
            evaluation.record_result(run, setting, result)
            found[setting.name] = result.readings
        row = _row(compare(run), "cfg 9", "fvd:judge")
    names = {side: found["cfg"].names(side, "judge") for side in ("generated", "reference")}
    x, other = (found[name].stack("generated", "judge", names["generated"]) for name in found)
    y = found["cfg"].stack("reference", "judge", names["reference"])

    def statistic(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        real_moments = Moments.from_features(y[j])
        values = [frechet_distance(Moments.from_features(v[i]), real_moments) for v in (other, x)]
        return torch.tensor([values[0] - values[1]], dtype=torch.float64)

    half = jackknife.half_widths(statistic, [range(9), range(9)])
    assert half is not None
    value = float(statistic(torch.arange(9), torch.arange(9)))
    assert row.diff == pytest.approx(value, rel=1e-6)
    assert (row.diff_high - row.diff_low) / 2 == pytest.approx(float(half), rel=1e-6)


def test_a_run_is_evaluated_in_one_table(evaluated: tuple[Path, Path]) -> None:
    folder, real = evaluated
    said = run_cli("evaluate", folder).stdout
    lines = said.splitlines()
    assert lines[0].split() == ["setting", "videos", "temporal_flickering", "^"]
    assert [line.split("  ")[0] for line in lines[1:3]] == ["lab-mochi cfg", "lab-mochi cfg 9"]
    assert re.search(r"9 +0\.\d+ \(0\.\d+ to 0\.\d+\)", lines[1])
    assert said.count("not run") == 1
    assert said.count("i3d_pretrained_400.pt") == 2  # with real videos, and without
    needed = f"skipguide evaluate {folder} --reference DIR --weights FOLDER --non-commercial"
    assert needed in said
    assert "skipguide lab clips DIR --model mochi" in said
    with_reference = run_cli("evaluate", folder, "--reference", real).stdout
    assert "--reference DIR" not in with_reference
    assert f"--reference {real} --metrics fvd:judge,kvd:judge" in with_reference
    by_judge = run_cli("evaluate", folder, "--features", "judge").stdout
    assert f"skipguide evaluate {folder} --reference DIR --features judge --weights" in by_judge
    assert "with real clips of the lab:" in by_judge.splitlines()
    named = run_cli("evaluate", folder, "--metrics", "temporal_flickering,vendi:judge").stdout
    assert "not run" not in named
    assert "vendi:judge ^" in named.splitlines()[0]
    assert "9 generated videos are few" in named


@pytest.mark.long
def test_the_command_that_is_printed_runs(evaluated: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = evaluated
    said = run_cli("evaluate", folder).stdout.splitlines()
    made, measured = (line.split()[1:] for line in said[-2:])
    real = tmp_path / "real"
    run_cli(*(str(real) if word == "DIR" else word for word in made), "--count", "8")
    shown = run_cli(*(str(real) if word == "DIR" else word for word in measured)).stdout
    assert "fvd:judge v" in shown
    assert "reference: 8 videos" in shown
