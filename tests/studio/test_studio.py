"""The studio's view of a run: sliders, maps, measures, studies, reports; its command lines."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.generate.record import upgrade_settings
from skipguide.runs import Clip, Run, Setting, Vote
from skipguide.runs.entities import SetMetric
from skipguide.studio import blind_test, files, page_data, report, setting_grid
from skipguide.studio.access import Policy
from skipguide.studio.app import create_app
from support.painted import PROMPTS, SETTINGS, painted


def setting(number: int, **said: Any) -> Setting:
    return Setting(number, f"setting {number}", "model", {}, upgrade_settings(said), None)


# --- how settings belong together -----------------------------------------------------------------

CFG = setting(1, guidance_scale=4.5, stg_scale=0.0, layers=[5], skip="residual", steps=28)
STG = [
    setting(2 + i, guidance_scale=4.5, stg_scale=s, layers=[8], skip="residual", steps=28)
    for i, s in enumerate((2.0, 0.5))
]
OTHER = setting(9, guidance_scale=4.5, stg_scale=0.5, layers=[10], skip="attention", steps=28)


def test_measures_of_sets_begin_with_fvd(painted_copy: Path) -> None:
    """The map opens on the first of them, and the ledger has them by name."""
    with Run.open(painted_copy, writable=True) as run:
        first = run.settings()[0].id
        for name in ("a_metric_of_mine", "coverage:judge", "fvd:judge"):
            run.record_set_metric(SetMetric(first, name, 0.5, 4, 0.2, 0.8))
        found = page_data.describe(run)["measures"]
    sets = [measure["name"] for measure in found if measure["kind"] == "set"]
    assert sets == ["fvd:judge", "coverage:judge", "a_metric_of_mine"]


def test_a_slider_has_the_scales_that_exist_and_zero_is_the_setting_without_stg() -> None:
    found = setting_grid.sliders([CFG, *STG])
    steps = [(0.0, 1), (0.5, 3), (2.0, 2)]
    assert found == {1: {"stg_scale": steps}, 2: {"stg_scale": steps}, 3: {"stg_scale": steps}}


def test_the_zero_of_two_scales_has_no_slider_itself() -> None:
    found = setting_grid.sliders([CFG, *STG, OTHER])
    assert found[1] == {}
    assert found[9] == {"stg_scale": [(0.0, 1), (0.5, 9)]}
    assert len(found[2]["stg_scale"]) == 3


def test_settings_that_differ_in_more_than_a_scale_have_no_slider() -> None:
    found = setting_grid.sliders(
        [CFG, setting(2, guidance_scale=3.0, stg_scale=0.0, layers=[5], skip="residual", steps=14)]
    )
    assert found == {1: {}, 2: {}}


def test_the_scale_of_cfg_has_a_slider_too() -> None:
    found = setting_grid.sliders(
        [CFG, setting(2, guidance_scale=3.0, stg_scale=0.0, layers=[9], skip="residual", steps=28)]
    )
    assert found[1] == {"guidance_scale": [(3.0, 2), (4.5, 1)]}


def test_one_of_two_scales_moves_alone() -> None:
    pairs = [(1.0, 0.0), (1.0, 0.5), (2.0, 0.5)]
    both = [
        setting(i, spatial_scale=s, temporal_scale=t, layers=["up:0"])
        for i, (s, t) in enumerate(pairs)
    ]
    found = setting_grid.sliders(both)
    assert found[1] == {
        "temporal_scale": [(0.0, 0), (0.5, 1)],
        "spatial_scale": [(1.0, 1), (2.0, 2)],
    }


def test_what_tells_settings_apart() -> None:
    assert setting_grid.varying_parameters([CFG, *STG, OTHER]) == ["layers", "stg_scale", "skip"]
    assert setting_grid.varying_parameters([CFG, STG[0]]) == ["layers", "stg_scale", "skip"]
    assert setting_grid.varying_parameters([CFG]) == []
    assert setting_grid.varying_parameters(STG) == ["stg_scale"]


def test_a_layer_map_has_a_row_per_layer_in_their_order() -> None:
    (found,) = setting_grid.layer_maps([OTHER, CFG, *STG])
    assert found["rows"] == ["8", "10"]
    assert found["columns"] == ["attention, s 0.5", "residual, s 0.5", "residual, s 2"]
    assert found["cells"] == [[None, 3, 2], [9, None, None]]
    assert setting_grid.layer_maps([CFG]) == []


# --- what the page gets ---------------------------------------------------------------------------


def test_the_payload_has_all_of_a_run(painted_run: Path) -> None:
    with Run.open(painted_run) as run:
        found = json.loads(json.dumps(page_data.describe(run), allow_nan=False))
    assert found["name"] == "first"
    assert [prompt["text"] for prompt in found["prompts"]] == PROMPTS
    assert (found["seeds"], len(found["clips"]), found["counts"]["done"]) == ([0, 1], 20, 20)
    assert [entry["name"] for entry in found["settings"]][:2] == ["cfg", "stg layers=4 scale=0.5"]
    assert found["varied"] == ["layers", "stg_scale", "skip"]
    measures = {measure["name"]: measure for measure in found["measures"]}
    assert [value["value"] for value in measures["passes_per_step"]["values"].values()] == [
        2.0,
        2.5,
        2.5,
        2.5,
        2.5,
    ]
    assert str(painted_run) not in json.dumps(found)  # no folder of the machine


def test_numbers_of_an_evaluation_come_before_our_means_and_none_is_not_finite(
    painted_copy: Path,
) -> None:
    with Run.open(painted_copy, writable=True) as run:
        first = run.settings()[0].id
        own = [clip for clip in run.clips() if clip.setting == first]
        run.record_metrics([(clip.key, "temporal_flickering", 0.5) for clip in own])
        run.record_metrics(
            [(clip.key, "mine", float("nan") if clip is own[0] else 2.0) for clip in own]
        )
        run.record_set_metric(SetMetric(first, "temporal_flickering", 0.25, 4, 0.2, 0.3))
        found = page_data.describe(run)
    json.dumps(found, allow_nan=False)
    measures = [
        measure
        for measure in found["measures"]
        if measure["name"] in ("temporal_flickering", "mine")
    ]
    values = {measure["name"]: measure["values"][first] for measure in measures}
    assert len(measures) == 2
    assert values["temporal_flickering"] == {
        "value": 0.25, "low": 0.2, "high": 0.3, "count": 4, "reason": None,
    }  # fmt: skip
    assert (values["mine"]["value"], values["mine"]["count"]) == (2.0, 3)
    assert {measure["name"]: measure["better"] for measure in measures} == {
        "temporal_flickering": "higher",
        "mine": None,
    }


# --- studies --------------------------------------------------------------------------------------


def clips_of(folder: Path) -> list[Clip]:
    with Run.open(folder) as run:
        return run.clips()


def test_pairs_are_all_pairs_of_one_prompt_and_seed_once(painted_run: Path) -> None:
    found = blind_test.tasks(clips_of(painted_run), "pair", [1, 2, 3], "Ann")
    assert len(found) == 3 * 4  # pairs of settings x cells
    for task in found:
        assert task.second is not None
        assert (task.first.prompt, task.first.seed) == (task.second.prompt, task.second.seed)
        assert task.first.key < task.second.key
    assert len({(task.first.key, task.second.key) for task in found if task.second}) == 12


def test_order_and_sides_are_the_raters_own_and_stay(painted_run: Path) -> None:
    clips = clips_of(painted_run)
    every = [
        blind_test.tasks(clips, "pair", [1, 2, 3, 4, 5], rater)
        for rater in ("Ann", "Bob", "Cid", "Dee")
    ]
    assert every[0] == blind_test.tasks(clips[::-1], "pair", [5, 4, 3, 2, 1], "Ann")
    assert len({tuple(task.first.key for task in tasks) for tasks in every}) == 4
    lefts = [task.left == "first" for tasks in every for task in tasks]
    assert 0.35 < sum(lefts) / len(lefts) < 0.65
    cfg_left = [
        task.clips_in_order[0].setting == 1
        for tasks in every
        for task in tasks
        if 1 in (c.setting for c in task.clips_in_order)
    ]
    assert 0.3 < sum(cfg_left) / len(cfg_left) < 0.7


def test_more_videos_do_not_change_the_order_of_the_others(painted_run: Path) -> None:
    clips = clips_of(painted_run)
    few = [task.first.key for task in blind_test.tasks(clips, "rating", [1, 2], "Ann")]
    many = [task.first.key for task in blind_test.tasks(clips, "rating", [1, 2, 3, 4], "Ann")]
    assert [key for key in many if key in few] == few


def test_a_test_without_pairs_is_refused(painted_run: Path) -> None:
    with pytest.raises(
        ValueError,
        match="needs two finished videos of one prompt and seed of the settings in its link",
    ):
        blind_test.tasks(clips_of(painted_run), "pair", [1], "Ann")


@pytest.mark.parametrize("left", ["first", "second"])
@pytest.mark.parametrize("answer", ["left", "right", "tie"])
def test_an_answer_means_the_video_that_was_shown_there(
    painted_run: Path, left: Any, answer: str
) -> None:
    a, b = sorted(clips_of(painted_run)[:2], key=lambda clip: clip.key)
    task = blind_test.Task(a, b, left)
    (vote,) = blind_test.build_votes(task, "Ann", {"preference": answer}, 2.0)
    chosen = {"first": a, "second": b}.get(vote.answer)
    assert chosen is (
        None if answer == "tie" else task.clips_in_order[0 if answer == "left" else 1]
    )
    assert (vote.first, vote.second, vote.left) == (a.key, b.key, left)


def test_other_questions_are_refused(painted_run: Path) -> None:
    clip = clips_of(painted_run)[0]
    with pytest.raises(
        ValueError, match=r"questions to answer are video quality, .* but got answers to preference"
    ):
        blind_test.build_votes(blind_test.Task(clip), "Ann", {"preference": "left"}, None)


def test_results_tell_who_won_and_whether_raters_agree(painted_copy: Path) -> None:
    """Ann and Bob always prefer the larger setting; Cid always votes for what is on the left."""
    with Run.open(painted_copy, writable=True) as run:
        for rater in ("Ann", "Bob", "Cid"):
            for task in blind_test.tasks(run.clips(), "pair", [1, 2, 3], rater):
                larger = (
                    "left"
                    if task.clips_in_order[0].setting > task.clips_in_order[1].setting
                    else "right"
                )
                answer = "left" if rater == "Cid" else larger
                for vote in blind_test.build_votes(task, rater, {"preference": answer}, 1.0):
                    run.vote(vote)
        found = blind_test.results(run)["pair"]
        left = blind_test.open_tasks(
            blind_test.tasks(run.clips(), "pair", [1, 2, 3], "Ann"), run.votes(), "pair", "Ann"
        )
    assert left == []
    assert (found["votes"], found["raters"]) == (36, {"Ann": 12, "Bob": 12, "Cid": 12})
    rates = [found["win_rates"][number]["value"] for number in (1, 2, 3)]
    assert rates == sorted(rates)
    strengths = [found["strengths"][number]["value"] for number in (1, 2, 3)]
    assert strengths == sorted(strengths)
    kappas = {tuple(entry["raters"]): entry["kappa"] for entry in found["agreement"]["kappa"]}
    assert kappas["Ann", "Bob"] == 1.0
    assert kappas["Ann", "Cid"] < 0.7
    assert 0 < found["agreement"]["alpha"]["preference"] < 1


def test_ratings_are_means_by_question(painted_copy: Path) -> None:
    with Run.open(painted_copy, writable=True) as run:
        for rater, better in (("Ann", 5), ("Bob", 4)):
            for task in blind_test.tasks(run.clips(), "rating", [1, 2], rater):
                value = str(better if task.first.setting == 2 else 2)
                for vote in blind_test.build_votes(
                    task, rater, dict.fromkeys(blind_test.QUESTIONS["rating"], value), 1.0
                ):
                    run.vote(vote)
        found = page_data.describe(run)
    means = found["votes"]["rating"]["means"]
    assert list(means) == list(blind_test.QUESTIONS["rating"])
    assert {(values[1]["value"], values[2]["value"]) for values in means.values()} == {(2.0, 4.5)}
    assert found["votes"]["rating"]["agreement"]["alpha"]["video quality"] > 0.5
    assert "motion quality" in {measure["name"] for measure in found["measures"]}


# --- files ----------------------------------------------------------------------------------------


def test_no_script_of_the_page_parses_html() -> None:
    """Prompts and names reach the page as text nodes, since nothing in it can make anything else of
    them."""
    for name, content in files.load_assets().items():
        if name.endswith(".js"):
            found = re.search(
                r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|srcdoc|eval\(|new"
                r" Function",
                content.decode(),
            )
            assert found is None, (name, found)


def test_the_page_asks_nobody_else() -> None:
    for name, content in files.load_assets().items():
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", content.decode()))
        assert addresses <= {"http://www.w3.org"}, (name, addresses)


def test_scripts_are_short() -> None:
    assert {
        name for name, content in files.load_assets().items() if content.count(b"\n") > 300
    } == set()


@pytest.mark.parametrize(
    "key",
    [
        "",
        "..",
        "../ledger.sqlite",
        "a" * 15,
        "A" * 16,
        "g" * 16,
        "0" * 16 + "\n",
        "%2e%2e/%2e%2e",
        "é" * 16,
    ],
)
def test_only_keys_name_videos(painted_run: Path, key: str) -> None:
    with (
        Run.open(painted_run) as run,
        pytest.raises(ValueError, match="the key of a clip must be 16 digits"),
    ):
        files.find_video(run, key)


@pytest.mark.parametrize(
    "trick", ["link out", "link in", "linked folder", "pipe", "folder", "missing"]
)
def test_only_plain_files_of_the_run_are_given_out(
    painted_copy: Path, tmp_path: Path, trick: str
) -> None:
    clip = clips_of(painted_copy)[0]
    assert clip.video is not None
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"secret")
    if trick == "linked folder":
        shutil.move(painted_copy / "videos", tmp_path / "elsewhere")
        (painted_copy / "videos").symlink_to(tmp_path / "elsewhere")
    else:
        other = clip.video.rename(clip.video.with_name("other.mp4"))
        {
            "link out": lambda: clip.video.symlink_to(secret) if clip.video else None,
            "link in": lambda: clip.video.symlink_to(other) if clip.video else None,
            "pipe": lambda: __import__("os").mkfifo(clip.video),
            "folder": lambda: clip.video.mkdir() if clip.video else None,
            "missing": lambda: None,
        }[trick]()
    with (
        Run.open(painted_copy) as run,
        pytest.raises(ValueError, match="a video must be a plain file in the run directory"),
    ):
        files.find_video(run, clip.key)


def test_a_ledger_cannot_name_files_outside(painted_copy: Path) -> None:
    import sqlite3

    clip = clips_of(painted_copy)[0]
    (painted_copy.parent / "other.mp4").write_bytes(b"secret")
    with sqlite3.connect(painted_copy / "ledger.sqlite") as db:
        db.execute("UPDATE jobs SET video = '../other.mp4' WHERE key = ?", (clip.key,))
    db.close()
    with (
        Run.open(painted_copy) as run,
        pytest.raises(ValueError, match="a video must be a plain file"),
    ):
        files.find_video(run, clip.key)


# --- reports --------------------------------------------------------------------------------------


def test_a_run_whose_name_is_not_utf_8(painted_run: Path, tmp_path: Path) -> None:
    """The report and the server say it with an escape, and do not fail after all is copied."""
    folder = tmp_path / os.fsdecode(b"run\xff")
    shutil.copytree(painted_run, folder)
    said = CliRunner().invoke(app, ["report", str(folder), "--out", f"{tmp_path}/out", "--json"])
    assert said.exit_code == 0, said.output
    assert '"name": "run\\\\udcff"' in (tmp_path / "out" / "index.html").read_text("utf-8")
    with TestClient(create_app(folder, Policy()), base_url="http://localhost:8700") as page:
        assert page.get("/api/run").json()["name"] == "run\\udcff"


def test_a_report_is_one_folder_with_all_in_it(painted_run: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(
        app, ["report", str(painted_run), "--out", str(tmp_path / "out"), "--json"]
    )
    assert said.exit_code == 0, said.output
    written = json.loads(said.stdout)
    assert written["clips"] == 20
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clips", "index.html"]
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "/static/" not in page
    assert (tmp_path / "out" / "clips" / f"{clips_of(painted_run)[0].key}.mp4").read_bytes()[
        4:8
    ] == b"ftyp"
    assert not list(tmp_path.glob(".*"))
    assert str(painted_run) not in page


def test_a_report_keeps_what_a_prompt_says_as_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><!-- \u2028 <img src=x onerror=alert(1)>"
    made = painted(tmp_path / "evil", prompts=[evil], seeds=[0], settings=SETTINGS[:1])
    with Run.open(made) as run:
        report.write_report(run, tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "<script>alert" not in page
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["prompts"][0]["text"] == evil


def test_a_report_replaces_reports_only(painted_run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    (tmp_path / "clips" / "clips").mkdir(parents=True)
    (tmp_path / "clips" / "clips" / "holiday.mp4").write_text("x")
    with Run.open(painted_run) as run:
        with pytest.raises(ValueError, match="must be a new folder or a report to replace"):
            report.write_report(run, tmp_path / "mine", overwrite=True)
        with pytest.raises(ValueError, match="must be a new folder or a report to replace"):
            report.write_report(run, painted_run, overwrite=True)
        with pytest.raises(ValueError, match="must be a new folder or a report to replace"):
            report.write_report(run, tmp_path / "clips", overwrite=True)
        (tmp_path / "clips" / "index.html").write_text("<h1>Holidays</h1>")
        with pytest.raises(ValueError, match="must be a new folder or a report to replace"):
            report.write_report(run, tmp_path / "clips", overwrite=True)
        report.write_report(run, tmp_path / "out")
        with pytest.raises(ValueError, match=r"exists\. Pass --overwrite or another name"):
            report.write_report(run, tmp_path / "out")
        for folder in (tmp_path / "out", tmp_path / "out/clips"):
            (folder / ".DS_Store").write_bytes(b"\x00")  # of a look at it
        report.write_report(run, tmp_path / "out", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize("verb", ["studio", "report"])
def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path: Path, verb: str) -> None:
    said = CliRunner().invoke(app, [verb, str(tmp_path)])
    assert said.exit_code == 2
    assert said.stderr.startswith("error: a run must be a folder with a ledger.sqlite")


def test_votes_on_a_video_that_was_made_anew_still_count(painted_copy: Path) -> None:
    import sqlite3

    old, other = clips_of(painted_copy)[:2]
    first, second = sorted((old.key, other.key))
    with Run.open(painted_copy, writable=True) as run:
        run.vote(Vote("Ann", "pair", "preference", first, second, "first", "first", 1.0))
    with sqlite3.connect(painted_copy / "ledger.sqlite") as db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(jobs)") if row[1] != "key"]
        names = ", ".join(columns)
        db.execute(
            f"INSERT INTO jobs(key, {names}) SELECT 'ffffffffffffffff', {names} FROM jobs WHERE"
            " key = ?",
            (old.key,),
        )
        db.execute("UPDATE jobs SET added = '2999' WHERE key = 'ffffffffffffffff'")
    db.close()
    with Run.open(painted_copy) as run:
        assert old.key not in {clip.key for clip in run.clips()}
        assert blind_test.results(run)["pair"]["votes"] == 1
