"""Many prompts and seeds by one command, and what remains of it when it is ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from skipguide.cli import app, names
from skipguide.cli.prompt_options import parse_setting
from skipguide.cli.reproduce import _choose, _Recorded
from skipguide.files import video
from skipguide.generate import run as generation
from skipguide.generate.settings import validate_settings
from skipguide.models import loading
from skipguide.runs import Plan, Run
from skipguide.runs.local_engine import LocalEngine
from skipguide.runs.sweep import estimate

SMALL = (
    "--model", "../tiny", "--steps", "2", "--height", "32", "--width", "32", "--num-frames", "7",
    "--max-sequence-length", "16", "--device", "cpu", "--layers", "2",
)  # fmt: skip
TABLE = '''\
# for the paper
prompt,negative_prompt,seed,num_frames,height,style
"a red star, ""drifting""",,,1,,flat
A red star: drifting,blurred,7,,,
赤い 🦊,,"1,2",,,
of no size,,,,36,
'''


def run(*args: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def output(*args: str | Path, code: int = 0) -> Any:
    return json.loads(run(args[0], "--json", *args[1:], code=code).stdout)


@pytest.fixture
def here(tmp_path: Path, tiny_mochi_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    (tmp_path / "tiny").symlink_to(tiny_mochi_dir)
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here/p.csv").write_text(TABLE, encoding="utf-8-sig")
    return tmp_path / "here"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that are loaded."""
    load, found = loading.load, []

    def noting(settings: Any, *more: Any) -> Any:
        found.append(settings.model)
        return load(settings, *more)

    monkeypatch.setattr(loading, "load", noting)
    return found


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The prompts and seeds of the videos that are made."""
    generate, found = generation.generate, []

    def noting(pipe: Any, settings: Any, *more: Any) -> Any:
        found.append((settings.prompt, settings.seed))
        return generate(pipe, settings, *more)

    monkeypatch.setattr(generation, "generate", noting)
    return found


def settings_in(path: str | Path) -> dict[str, Any]:
    return video.read_record(Path(path))["settings"]


def test_a_file_of_prompts_is_a_folder_of_videos(here: Path, loads: list[str]) -> None:
    said = run("generate", "--prompts", "p.csv", "--seeds", "0:2", *SMALL, code=1)
    *lines, cost, used, memory = said.stdout.splitlines()
    assert cost.startswith("2.25 passes and ")
    assert cost.endswith(" s in all")
    assert used == (
        "../tiny, float32 on cpu: CFG 4.5 + STG 1 (residual 2); no preset for this model: you gave"
        " the layers"
    )
    assert memory.startswith("peak memory ")
    assert lines == [
        "7 videos in p-videos: 5 made, 2 failed",
        *(
            f"failed: of no size, seed {seed} (line 6 of p.csv): height and width must be multiples"
            " of 8 for MochiPipeline, but got 36 and 32. Take --height 32 --width 32."
            for seed in (0, 1)
        ),
    ]
    found = sorted(path.stem for path in (here / "p-videos").glob("*.mp4"))
    assert found == ["a-red-star-drifting-0", "a-red-star-drifting-1", "a-red-star-drifting-7",
                     "赤い-fox-face-1", "赤い-fox-face-2"]  # fmt: skip
    assert len(loads) == 1
    row = video.read_record(here / "p-videos/a-red-star-drifting-7.mp4")
    assert (row["settings"]["negative_prompt"], row["frames"][0]) == ("blurred", 7)
    first = video.read_record(here / "p-videos/a-red-star-drifting-1.mp4")
    assert (first["frames"][0], first["tags"]) == (1, {"style": "flat"})
    alone = output("generate", "A red star: drifting", *SMALL, "--negative-prompt", "blurred",
                   "--seed", "7")["record"]  # fmt: skip
    assert alone["frames_sha256"] == row["frames_sha256"]
    assert alone["settings"] == row["settings"]


def test_an_ended_command_goes_on_where_it_was(
    here: Path, made: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "p.txt").write_text("a\n# b\nc\n")
    command = ("generate", "--prompts", "p.txt", "--seeds", "0,5", *SMALL, "--out", "videos")
    write, kept = video.write, []

    def ended(*args: Any) -> None:
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(args[0])
        write(*args)

    monkeypatch.setattr(video, "write", ended)
    assert "every file that was written is complete" in run(*command, code=130).stderr
    monkeypatch.setattr(video, "write", write)
    before = [path.stat().st_mtime_ns for path in kept]
    made.clear()
    said = output(*command)
    assert made == [("c", 0), ("c", 5)]
    assert [entry["state"] for entry in said["videos"]] == ["there", "there", "made", "made"]
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert {entry["record"]["settings"]["seed"] for entry in said["videos"]} == {0, 5}
    refused = run(*command, "--guidance-scale", "3", code=2).stderr
    assert ("but videos/a-0.mp4 and 3 more of 4 are neither: guidance_scale 4.5, now 3.0. Pass"
            " --overwrite, or another folder.") in refused  # fmt: skip
    assert len(made) == 2
    run(*command, "--guidance-scale", "3", "--overwrite")
    assert len(made) == 6
    assert settings_in("videos/c-5.mp4")["guidance_scale"] == 3.0


def test_files_of_others_are_refused_before_the_model_is_loaded(
    here: Path, loads: list[str]
) -> None:
    (here / "a-1.mp4").write_text("mine")
    said = run("generate", "a", "--seeds", "0:2", *SMALL, code=2).stderr
    assert said.startswith("error: the output must be a new file, but a-1.mp4 exists.")
    assert loads == []


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("generate x --prompts p.csv", "or from --prompts, but got 'x' and p.csv. Leave one of"),
        ("compare x y --prompts p.csv", "or from --prompts, but got 'x' and p.csv. Leave one of"),
        ("generate x --seeds 0:2 --seed 3", "--seed and --seeds cannot be combined, but got 3 and"),
        (
            "generate x --seeds 2:0",
            "--seeds must be ranges from a number to a higher one, as in 0:4",
        ),
        ("generate x --seeds 2:x", "--seeds must be whole numbers from 0 to 2^63 - 1, as in 7, or"),
        ("generate --prompts p.csv --out x.mp4", "--out must be a folder where there are many"),
        ("generate --prompts none.csv", "prompts must be a readable file, but none.csv is not:"),
        ("generate --prompts wrong.csv", "line 2 of wrong.csv: num_frames must be a whole number"),
        ("generate --prompts wrong.csv", "line 3 of wrong.csv: steps must be a whole number >= 1,"),
        ("generate --prompts picture.csv", "pictures of prompts must be files, but none.png of"),
        ("compare --prompts damaged.csv", "line 2 of damaged.csv: image must be an image file"),
        ("sweep --seeds 3", "a sweep needs a plan, or --prompts and --setting, but got neither"),
        ("sweep plan.yaml --model x", "--model is for sweeps without a plan, but got plan.yaml"),
        ("sweep --prompts p.csv --setting a=1=2,b --setting 'x", "Close the quotes."),
    ],
)
def test_what_does_not_go_together_is_refused(
    here: Path, loads: list[str], typed: str, said: str
) -> None:
    (here / "wrong.csv").write_text("prompt,num_frames,steps\na,0,\nb,,x\n")
    (here / "picture.csv").write_text("prompt,image\na,none.png\n")
    (here / "damaged.csv").write_text("prompt,image\na,damaged.png\n")
    (here / "damaged.png").write_text("no picture")
    assert said in run(*typed.split(), code=2).stderr
    assert loads == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cfg stg_scale=0", {"name": "cfg", "stg_scale": 0.0}),
        ("layers=8,9 stg-scale=1 fps=24000/1001", {"layers": "8,9", "stg_scale": 1.0,
                                                   "fps": "24000/1001"}),
        ("'two words' cfg_rule='apg eta=0.2' normalize=yes",
         {"name": "two words", "cfg_rule": "apg eta=0.2", "normalize": True}),
    ],
)  # fmt: skip
def test_a_setting_in_words(text: str, words: dict[str, Any]) -> None:
    assert parse_setting(text) == words


# --- names ----------------------------------------------------------------------------------------


def chosen(folder: Path, *prompts: str, seed: int = 0) -> list[str]:
    subjects = [
        names.Subject(validate_settings({"prompt": prompt, "seed": seed})) for prompt in prompts
    ]
    return names.choose_names(subjects, folder)


def test_no_two_prompts_share_a_name(tmp_path: Path) -> None:
    prompts = ["Red star", "red star!", "re\u0301d star", "réd star", "RED  STAR", "🦊", "🦊🏽",
               "straße", "strasse", "\uff32\uff25\uff24 star", "x" * 70, "x" * 71]  # fmt: skip
    found = chosen(tmp_path, *prompts)
    assert found[0] == "red-star-0"
    assert len({name.casefold() for name in found}) == len(prompts)
    for name in found:
        (tmp_path / f"{name}.mp4").write_text("")
    assert len(list(tmp_path.iterdir())) == len(prompts)


def test_a_prompt_keeps_its_name_whatever_comes_before_it(tmp_path: Path) -> None:
    record = {"settings": {"prompt": "red star!", "image": None, "seed": 0}}
    (first,) = chosen(tmp_path, "red star!")
    video.write(tmp_path / f"{first}.mp4", np.zeros((1, 16, 16, 3), np.uint8), 8, record)
    other, same = chosen(tmp_path, "Red star", "red star!")
    assert (first, same) == ("red-star-0", "red-star-0")
    assert other.startswith("red-star-0-")
    assert chosen(tmp_path, "red star!", "Red star") == [same, other]
    assert chosen(tmp_path, "Red star") == [other]


def test_one_command_does_not_take_the_name_of_another_prompt(here: Path) -> None:
    for prompt in ("Red star", "red star!"):
        run("generate", prompt, *SMALL, "--num-frames", "1")
    prompts = [settings_in(path)["prompt"] for path in sorted(here.glob("*.mp4"))]
    assert sorted(prompts) == ["Red star", "red star!"]
    assert "red-star-0.mp4 exists" in run("generate", "Red star", *SMALL, code=2).stderr


# --- compare and reproduce ------------------------------------------------------------------------


def test_single_videos_of_a_comparison_are_a_run(here: Path) -> None:
    said = output("compare", "a", "b", *SMALL, "--out-dir", "c", "--seed", "4")
    with Run.open("c") as found:
        clips = found.clips("done")
        assert [setting.name for setting in found.settings()] == [
            "CFG 4.5", "CFG 4.5 + STG 1 (residual 2)",
        ]  # fmt: skip
        text = found.plans()[0]
    assert [str(clip.video) for clip in clips] == [run["clip"] for run in said["runs"]]
    for run_, clip in zip(said["runs"], clips, strict=True):
        assert clip.video
        assert video.read_record(clip.video) == run_["record"]
        frames, _ = video.read(clip.video)
        assert frames.shape == tuple(run_["record"]["frames"])
    # A sweep of the same finds all of them: their keys are those that it gives.
    planned = estimate(Plan.of(yaml.safe_load(text)), here / "c", LocalEngine(here / "work"))
    assert (planned.clips, planned.missing) == (4, 0)
    assert output("reproduce", said["runs"][1]["clip"])["bit_equal"]


@pytest.mark.long
def test_another_comparison_in_the_same_folder_adds_to_the_run(here: Path) -> None:
    run("compare", "a", *SMALL)
    run("compare", "b", *SMALL, "--rescale", "0.7")
    with Run.open("compare") as found:
        settings = [(setting.name, setting.complete["guidance"].get("rescale"))
                    for setting in found.settings()]  # fmt: skip
        assert settings == [("CFG 4.5", None), ("CFG 4.5 + STG 1 (residual 2)", None),
                            ("CFG 4.5 + STG 1 (residual 2) (2)", 0.7)]  # fmt: skip
        assert len(found.clips("done")) == 4


@pytest.mark.long
def test_compare_of_a_file_goes_on_too(here: Path, made: list[tuple[str, int]]) -> None:
    command = ("compare", "--prompts", "p.csv", *SMALL)
    said = output(*command, code=1)
    states = [entry["state"] for entry in said["videos"]]
    assert states == ["made", "made", "made", "made", "failed"]
    first = {run["clip"]: run["record"]["frames_sha256"] for run in said["runs"]}
    assert len(first) == 8
    made.clear()
    (here / "compare/cfg-4.5/赤い-fox-face-2.mp4").unlink()
    again = output(*command, code=1)
    assert made[:2] == [("赤い 🦊", 2)] * 2
    assert made[2:] == [("of no size", 0)]  # what failed is tried again
    assert {run["clip"]: run["record"]["frames_sha256"] for run in again["runs"]} == first
    with Run.open("compare") as found:
        assert [(p.text, p.settings) for p in found.prompts()][1] == (
            "A red star: drifting", {"negative_prompt": "blurred"},
        )  # fmt: skip
        assert len(found.clips("done")) == 8


def test_reproduce_makes_all_videos_of_a_comparison_again(here: Path, loads: list[str]) -> None:
    run("compare", "a", *SMALL)
    loads.clear()
    said = run("reproduce", "compare/a-0.mp4", "--out", "again.mp4").stdout
    assert said == "CFG 4.5: bit-equal\nCFG 4.5 + STG 1 (residual 2): bit-equal\n"
    assert len(loads) == 1
    before, after = (video.read(Path(path))[0] for path in ("compare/a-0.mp4", "again.mp4"))
    assert before.shape == after.shape
    assert abs(before.astype(int) - after).mean() < 1  # encoders of several threads differ a bit
    (entry,) = output("reproduce", "compare/a-0.mp4", "--only", "stg")["runs"]
    assert (entry["method"], entry["bit_equal"]) == ("CFG 4.5 + STG 1 (residual 2)", True)
    for typed, refusal in (
        ("compare/a-0.mp4 --only APG", "--only must be one of CFG 4.5, CFG 4.5 + STG 1 (residual"),
        ("compare/cfg-4.5/a-0.mp4 --only CFG", "--only is for comparisons, but compare/cfg-4.5/a"),
    ):
        assert refusal in run("reproduce", *typed.split(), code=2).stderr


@pytest.mark.parametrize(
    ("only", "places"),
    [
        (None, [0, 1, 2]), ("2", [1]), ("cfg 4.5", [0]), ("cfg-4.5", [0]), ("STG", [1, 2]),
        ("temporal", [2]), ("CFG", [0, 1, 2]), ("CFG 4.5 + STG spatial 2", [1, 2]),
    ],
)  # fmt: skip
def test_methods_by_their_names_and_numbers(only: str | None, places: list[int]) -> None:
    methods = ("CFG 4.5", "CFG 4.5 + STG spatial 2 (residual 1)",
               "CFG 4.5 + STG spatial 2 + temporal 0.5 (residual 1)")  # fmt: skip
    settings = validate_settings({"prompt": "p"})
    runs = [_Recorded(place, method, {}, settings) for place, method in enumerate(methods)]
    assert [run.place for run in _choose(runs, only)] == places


@pytest.mark.long
def test_reproduce_says_which_video_of_a_comparison_is_another(here: Path) -> None:
    run("compare", "a", *SMALL)
    record = video.read_record(here / "compare/a-0.mp4")
    record["runs"][1]["frames_sha256"] = "0"
    frames, fps = video.read(here / "compare/a-0.mp4")
    frames[:, 24:, 260:] = 255  # the second video, all white
    video.write(here / "edited.mp4", frames, fps, record)
    first, second = output("reproduce", "edited.mp4", code=1)["runs"]
    assert (first["bit_equal"], first["difference"]) == (True, None)
    alone, _ = video.read(here / "compare/cfg-4.5-stg-1-residual-2/a-0.mp4")
    assert second["bit_equal"] is False
    assert second["difference"] == pytest.approx(255 - int(alone.min()), abs=25)  # of encoding


def test_a_sweep_without_a_plan(here: Path) -> None:
    (here / "all.yaml").write_text(yaml.safe_dump({"steps": 2, "height": 32, "width": 32,
                                                   "max_sequence_length": 16}))  # fmt: skip
    said = output("sweep", "--prompts", "p.csv", "--seeds", "5", "--model", "../tiny", "-c",
                  "all.yaml", "--setting", "stg_scale=0 num_frames=7", "--setting",
                  "layers=2 stg_scale=1 num_frames=7", code=2)  # fmt: skip
    assert "multiples of 8 for MochiPipeline, but got 36 and 32" in said["error"]
    (here / "p.csv").write_text("prompt,num_frames,seeds\na,1,\nb,1,0:2\n")
    said = output("sweep", "--prompts", "p.csv", "--seeds", "5", "--model", "../tiny", "-c",
                  "all.yaml", "--setting", "stg_scale=0", "--setting",
                  "layers=2 stg_scale=1")  # fmt: skip
    assert (said["run"], said["made"]) == ("runs/p", 6)
    with Run.open("runs/p") as found:
        assert [setting.name for setting in found.settings()] == ["CFG", "STG 2 x1"]
        assert found.seeds() == [0, 1, 5]


def test_prompts_and_seeds_in_the_place_of_a_plans(here: Path) -> None:
    (here / "plans").mkdir()
    content = {"model": "../tiny", "prompts": ["x", "y"], "settings": [{"name": "cfg"}],
               "steps": 2, "height": 32, "width": 32, "num_frames": 1}  # fmt: skip
    (here / "plans/q.yaml").write_text(yaml.safe_dump(content))
    (here / "p.jsonl").write_text('"a"\n{"prompt": "b", "seed": 9}\n')
    run("sweep", "plans/q.yaml", "--prompts", "p.jsonl", "--seeds", "3,4")
    with Run.open("runs/q") as found:
        prompts = {prompt.id: prompt.text for prompt in found.prompts()}
        made = {(prompts[clip.prompt], clip.seed) for clip in found.clips("done")}
        assert made == {("a", 3), ("a", 4), ("b", 9)}
        assert yaml.safe_load(found.plans()[0])["prompts"] == {"file": "../p.jsonl"}


def test_a_comparison_whose_video_was_removed_is_made_again(here: Path) -> None:
    command = ("compare", "a", *SMALL, "--seeds", "0:1", "--out-dir", "c")
    command = (*command[:-3], "0:2", *command[-2:])
    assert "│ seed │" in run(*command).output.replace("┃", "│")
    before = (here / "c/a-0.mp4").read_bytes()
    (here / "c/a-0.mp4").unlink()
    assert "1 made" in run(*command).output
    assert len((here / "c/a-0.mp4").read_bytes()) > len(before) // 2


def test_a_damaged_video_is_named_to_be_removed(here: Path) -> None:
    (here / "a-1.mp4").write_text("junk")
    said = run("generate", "a", *SMALL, "--seeds", "0,1", code=2).output
    assert "remove a-1.mp4 to have it made again" in said


@pytest.mark.parametrize("flag", ["--lora", "--steps=3", "--layers"])
def test_a_sweep_says_where_settings_belong(here: Path, flag: str) -> None:
    said = run("sweep", "plan.yaml", flag, "x", code=2).stderr
    name = flag.partition("=")[0].removeprefix("--")
    assert f"but got --{name}. Write {name}: into the plan or the file of --config" in said


@pytest.mark.parametrize(
    ("flag", "place"), [("--prompt", "--prompts"), ("--image", "--prompts"), ("--seed", "--seeds")]
)
def test_a_sweep_says_where_prompts_and_seeds_belong(here: Path, flag: str, place: str) -> None:
    """A plan refuses them in its settings."""
    said = run("sweep", "plan.yaml", flag, "3", code=2).stderr
    assert f"but got {flag}. Write it " in said
    assert said.rstrip().endswith(f"{place}.")
    assert "--setting" not in said
