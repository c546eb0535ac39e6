"""Seeds and settings that rows of prompts have of their own, in plans and in ledgers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from skipguide.cli.batch import Item, build_items
from skipguide.cli.batch_run import Outcome, describe_outcomes
from skipguide.cli.result_lines import format_costs
from skipguide.files import video
from skipguide.generate.settings import validate_settings
from skipguide.method.validate import Problems
from skipguide.runs import Clip, Plan, Run, prompts
from skipguide.runs.clip_table import clip_table
from skipguide.runs.prompt_rows import describe_columns, parse_seeds
from support.drawn import plan_with, swept

TABLE = (
    "prompt,seed,negative_prompt,num_frames,guidance_scale,style\n"
    "a star,,,,,flat\n"
    "a star,3:5,blurred,,,flat\n"
    "a moon,,grey,2.0,7,\n"
)


@pytest.mark.parametrize(
    ("value", "seeds"),
    [
        (7, (7,)), ("7", (7,)), ("0:4", (0, 1, 2, 3)), ("0,3,7", (0, 3, 7)), ("7.0", (7,)),
        (" 5 , 0:2,1", (5, 0, 1)), ([2, "4:6"], (2, 4, 5)), (f"{2**63 - 1}", (2**63 - 1,)),
    ],
)  # fmt: skip
def test_seeds_as_people_write_them(value: Any, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(value) == seeds


@pytest.mark.parametrize(
    "value", ["", "x", "-1", "4:4", "5:2", "1.5", "1,,2", True, None, f"{2**63}", "0:2000000", "0:"]
)
def test_what_is_no_seed_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"seeds must be"):
        parse_seeds(value)


def plan_of_table(folder: Path, text: str, **more: Any) -> Plan:
    (folder / "p.csv").write_text(text, encoding="utf-8")
    content = {"prompts": str(folder / "p.csv"), "seeds": [0, 1], **more}
    return plan_with(
        {"name": "cfg", "guidance_scale": 4.0}, {"name": "stg", "stg": {"layers": [8]}}, **content
    )


def settings_of(clip: Clip) -> dict[str, Any]:
    assert clip.video is not None
    return video.read_record(clip.video)["settings"]


def test_rows_decide_on_their_own_videos_and_no_others(tmp_path: Path) -> None:
    plan = plan_of_table(tmp_path, TABLE)
    planned = swept(tmp_path / "run", plan)[0]
    with Run.open(tmp_path / "run") as run:
        clips, settings = run.clips("done"), {s.id: s.name for s in run.settings()}
        prompts = {prompt.id: prompt for prompt in run.prompts()}
    names = ("prompt", "seed", "negative_prompt", "num_frames", "guidance_scale")
    made = [tuple(settings_of(clip)[name] for name in names) for clip in clips
            if settings[clip.setting] == "cfg"]  # fmt: skip
    assert made == [
        ("a star", 0, None, 3, 4.0), ("a star", 1, None, 3, 4.0),
        ("a star", 3, "blurred", 3, 4.0), ("a star", 4, "blurred", 3, 4.0),
        ("a moon", 0, "grey", 2, 7.0), ("a moon", 1, "grey", 2, 7.0),
    ]  # fmt: skip
    assert plan.clips == len(clips) == 12
    assert planned.clips == planned.missing == 12  # pyright: ignore[reportAttributeAccessIssue]
    own = [(prompt.text, prompt.settings, prompt.tags) for prompt in prompts.values()]
    assert own == [
        ("a star", {}, {"style": "flat"}),
        ("a star", {"negative_prompt": "blurred"}, {"style": "flat"}),
        ("a moon", {"negative_prompt": "grey", "num_frames": 2, "guidance_scale": 7.0}, {}),
    ]


def test_a_table_of_clips_has_what_their_rows_say(tmp_path: Path) -> None:
    swept(tmp_path / "run", plan_of_table(tmp_path, TABLE))
    with Run.open(tmp_path / "run") as run:
        rows = clip_table(run, run.clips())
    names = ("prompt", "seed", "setting.num_frames", "setting.negative_prompt")
    cells = [tuple(row[name] for name in names) for row in rows if row["setting"] == "cfg"]
    assert cells[1:5] == [("a star", 1, 3, None), ("a star", 3, 3, "blurred"),
                          ("a star", 4, 3, "blurred"), ("a moon", 0, 2, "grey")]  # fmt: skip


def test_a_row_has_the_key_of_a_plan_that_says_the_same(tmp_path: Path) -> None:
    """And the keys of rows that say nothing are those of before (`test_runs_plan` pins them)."""
    swept(tmp_path / "run", plan_of_table(tmp_path, TABLE))
    more: dict[str, Any] = {"negative_prompt": "grey", "num_frames": 2}
    same = plan_with({"name": "7", "guidance_scale": 7.0}, prompts=["a moon"], seeds=[1], **more)
    plain = plan_with({"name": "cfg", "guidance_scale": 4.0}, prompts=["a star"], seeds=[1])
    for plan in (same, plain):
        swept(tmp_path / "other", plan)
    with Run.open(tmp_path / "run") as run, Run.open(tmp_path / "other") as other:
        keys = {clip.key for clip in run.clips("done")}
        assert [clip.key in keys for clip in other.clips("done")] == [True, True]


def test_the_same_sweep_goes_on_and_adds_what_is_new(tmp_path: Path) -> None:
    swept(tmp_path / "run", plan_of_table(tmp_path, TABLE), fails=4)
    before = {path.name for path in (tmp_path / "run/videos").glob("*.mp4")}
    happened = swept(tmp_path / "run", plan_of_table(tmp_path, TABLE), retry_failed=True)
    assert len(before) == 10
    assert happened[0].missing == 2  # pyright: ignore[reportAttributeAccessIssue]


def test_rows_of_json_and_of_the_plan_itself(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "seed": 5, "layers": "8", "stg_scale": 2},
        {"prompt": "b", "seeds": [1]},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for written in (str(tmp_path / "p.jsonl"), rows):
        plan = plan_with({"guidance_scale": 4.0}, prompts=written, seeds=[0])
        assert [plan.seeds_of(prompt) for prompt in plan.prompts] == [(5,), (1,)]
        assert plan.prompts[0].settings == {"layers": "8", "stg_scale": 2}


def test_what_a_row_says_wrong_is_said_with_its_place(tmp_path: Path) -> None:
    text = "prompt,num_frames,layers\na,0,\nb,3,none\n"
    with pytest.raises(ValueError, match=r"line 2 of \S+p\.csv: num_frames must be .* but got 0\. "
                       r"Correct it\. line 3 of \S+p\.csv: layers must be"):  # fmt: skip
        plan_of_table(tmp_path, text)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ([{}, {"stg": {"layers": [8]}}], ["CFG", "STG 8 x1"]),
        ([{"steps": 3}, {"steps": 4, "fps": 8.5}], ["steps=3", "steps=4 fps=8.5"]),
        (
            [{"stg": {"layers": [5, 8], "scale": 0.5, "skip": "attention"}},
             {"layers": "8", "stg_scale": 2.0, "steps": 3}, {"slg_layers": 9, "steps": 2},
             {"guidance": {"terms": [{"layers": [8], "scale": [1, 0.5]}], "cfg": "apg"}}],
            ["STG 5,8 x0.5 attention", "STG 8 x2 steps=3", "SLG 9 steps=2",
             "STG 8 x1,0.5 + cfg=apg"],
        ),
        ([{"name": "CFG"}, {}], ["CFG", "CFG (2)"]),
        (
            [{"grid": {"guidance_scale": [3, 4.5], "stg": {"layers": [[8]], "scale": [1, 2]}}}],
            ["STG 8 x1 guidance_scale=3", "STG 8 x2 guidance_scale=3",
             "STG 8 x1 guidance_scale=4.5", "STG 8 x2 guidance_scale=4.5"],
        ),
        ([{"name": "stg", "grid": {"steps": [2, 3]}}, {}], ["stg steps=2", "stg steps=3", "CFG"]),
        ([{"negative_prompt": "x" * 50}, {}], [f"negative_prompt={'x' * 31}…", "CFG"]),
    ],
)  # fmt: skip
def test_settings_without_names_are_called_by_what_they_differ_in(
    settings: list[dict[str, Any]], names: list[str]
) -> None:
    assert [setting.name for setting in plan_with(*settings).settings] == names
    two = plan_with(*settings, model=["lab-mochi", "a/b"]).settings
    assert [setting.name for setting in two] == names * 2


def test_a_new_name_of_a_setting_keeps_its_clips(tmp_path: Path) -> None:
    """Names without words of the user change when a setting is added that differs otherwise."""
    swept(tmp_path / "run", plan_with({"guidance_scale": 3.0}))
    happened = swept(tmp_path / "run", plan_with({"guidance_scale": 3.0}, {"guidance_scale": 5.0}))
    assert happened[0].missing == 1  # pyright: ignore[reportAttributeAccessIssue]
    with Run.open(tmp_path / "run") as run:
        assert [s.name for s in run.settings()] == ["guidance_scale=3", "guidance_scale=5"]


# --- what is wrong with rows ----------------------------------------------------------------------

BAD_TABLE = (
    "prompt,num_frames,seed,guidance_scale\n"
    'fox,abc,1,"3,5"\nfox2,5,-3,\nfox3,5,4:0,\nsound,5,1,2.5\nfox4,7,1,9,9\n'
)
BAD_LINES = '{"prompt":"ok"}\n{"prompt": bad}\n[1,2]\n{"prompt":"x","num frames":0}\n5\n'


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.csv", BAD_TABLE, [
            "line 2 of {path}: num_frames must be a whole number >= 1, but got 'abc'. Correct it.",
            "line 2 of {path}: guidance_scale must be a finite number >= 0, but got '3,5'. Write it"
            " with a point: 3.5.",
            "seed of line 3 of {path} must be whole numbers",
            "seed of line 4 of {path} must be ranges from a number to a higher one, as in 0:4",
            "but line 6 of {path} has 5. Put",
        ]),
        ("p.jsonl", BAD_LINES, [
            "line 2 of {path} is not: ", "line 3 of {path} is '[1, 2]'",
            "line 4 of {path}: num_frames must be a whole number >= 1, but got 0. Correct",
            "line 5 of {path} is '5'",
        ]),
    ],
)  # fmt: skip
def test_all_that_is_wrong_is_said_at_once(
    tmp_path: Path, name: str, text: str, said: list[str]
) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Problems) as caught:
        prompts.read(prompts.PromptFile(file=name), tmp_path)
    messages = caught.value.messages
    assert len(messages) == len(said)
    for message, part in zip(messages, said, strict=True):
        assert part.format(path=path) in message
    assert not any("--num-frames" in message for message in messages)


def test_names_of_columns_as_spreadsheets_have_them(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("Prompt,Negative Prompt,Num-Frames,SEED,Shot Size\na,b,5,3,x\n")
    (found,) = prompts.read(prompts.PromptFile(file="p.csv"), tmp_path)
    assert (found.settings, found.seeds) == ({"negative_prompt": "b", "num_frames": 5}, (3,))
    assert found.tags == {"shot size": "x"}
    assert describe_columns([found], "p.csv") == (
        "p.csv sets negative_prompt, num_frames and seed row by row; shot size is kept as a tag and"
        " changes nothing."
    )


def test_a_video_that_two_rows_ask_for_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("prompt,seed,mood,look\nfox,0:2,sad,\nfox,,glad,flat\nowl,,,\n")
    items, note = build_items({}, {}, [None], path, "0,1,2")
    asked = [(item.settings.prompt, item.settings.seed) for item in items]
    assert asked == [("fox", 0), ("fox", 1), ("fox", 2), ("owl", 0), ("owl", 1), ("owl", 2)]
    assert items[0].tags == {"mood": "sad", "look": "flat"}
    assert items[2].tags == {"mood": "glad", "look": "flat"}
    assert note is not None
    assert "2 of 8 are asked for more than once" in note


def test_the_lines_that_end_many_videos() -> None:
    measured = {"passes_per_step": 2.0, "seconds_per_step": 0.5, "seconds": 3.0}
    records = [{"measured": measured}, {"measured": {**measured, "seconds_per_step": 0.75}}]
    assert format_costs(records) == ["2.00 passes and 0.50 to 0.75 s per step, 6.0 s in all"]
    assert format_costs(records[:1]) == ["2.00 passes and 0.50 s per step, 3.0 s in all"]
    assert format_costs([]) == []
    item = Item(validate_settings({"prompt": "x"}))
    one = Outcome(item, Path("x.mp4"), "made")
    assert describe_outcomes([one], "video", " in of") == "1 video in of: 1 made"
    assert describe_outcomes([one, one], "comparison") == "2 comparisons: 2 made"
