"""skipguide layers --map, as a user runs it: table, files, going on, published layers, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from skipguide.cli import app, layers_map
from skipguide.cli.layers_map import MapCommand
from skipguide.generate.settings import GenerationSettings
from skipguide.runs.prompt_rows import Prompt
from skipguide.tuning.scan.record import ScanOptions
from support.tiny.base import config, matter
from support.tiny_mochi import tiny_mochi

SMALL = (
    "--map", "--steps", "3", "--height", "32", "--width", "32", "--num-frames", "7",
    "--max-sequence-length", "16", "--device", "cpu", "--guidance-scale", "4.5",
)  # fmt: skip


def run(*args: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["layers", *(str(arg) for arg in args)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def test_the_map_of_a_model_in_a_folder(tiny_mochi_dir: Path, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "map"
    prompts.write_text("a red star\nthe blue square\na star on the left\n")
    arguments = (*SMALL, "--prompts", prompts, "--out", out, "--num-prompts", "2")
    said = run(tiny_mochi_dir, *arguments)
    assert "2 prompts at shares of noise" in said.stdout
    assert "blocks:3 attention" in said.stdout
    assert "edge (the first two layers" in said.stdout
    assert "not a verdict" in said.stdout
    assert {path.name for path in out.iterdir()} == {"map.json", "map.csv", "map.png", "scan"}
    records = {path: path.stat().st_mtime_ns for path in (out / "scan").iterdir()}
    assert len(records) == 2
    again = run(tiny_mochi_dir, *arguments, "--json")
    found = json.loads(again.stdout)
    assert {path: path.stat().st_mtime_ns for path in (out / "scan").iterdir()} == records
    written = json.loads((out / "map.json").read_text())
    assert found["cells"] == written["cells"]
    assert [cell["name"] for cell in found["cells"]][:2] == [
        "blocks:0 residual", "blocks:0 attention",
    ]  # fmt: skip
    assert found["prompts"] == 2


def videos_of(folder: Path, rows: str) -> tuple[MapCommand, list[GenerationSettings]]:
    """The command of a map with a file of prompts, and its videos."""
    prompts = folder / "prompts.csv"
    prompts.write_text(rows)
    command = MapCommand("lab-mochi", {}, {"seed": 7}, ScanOptions(), 4, None, False, True)
    return command, [settings for settings, _ in command._videos(None, prompts, None)]


def test_rows_have_negative_prompts_and_seeds_of_their_own(tmp_path: Path) -> None:
    rows = "prompt,negative_prompt,seed\na star,blurry,3\na square,,\n"
    rows += "a circle,dark,5\na circle,dark,6\n"
    command, videos = videos_of(tmp_path, rows)
    assert [(one.prompt, one.negative_prompt, one.seed) for one in videos] == [
        ("a star", "blurry", 3), ("a square", None, 8), ("a circle", "dark", 5),
        ("a circle", "dark", 6),
    ]  # fmt: skip
    assert not any("several seeds" in note for note in command.notes)
    (note,) = layers_map._check_rows([Prompt("a star", seeds=(3, 4))])
    assert note == "the scan looks at one video of each prompt: of several seeds at the first"


def test_rows_with_other_settings_of_their_own_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"of a map have the same .* has steps of"):
        videos_of(tmp_path, "prompt,steps\na star,3\n")


def deep_mochi(folder: Path) -> Path:
    """Mochi 1's 48 blocks with random weights, tiny otherwise."""
    from diffusers.models.transformers.transformer_mochi import MochiTransformer3DModel

    pipe: Any = tiny_mochi()
    torch.manual_seed(0)
    deep = MochiTransformer3DModel(**config("mochi", num_layers=48))
    pipe.transformer = matter(deep)
    pipe.save_pretrained(folder)
    return folder


@pytest.mark.long
def test_published_layers_of_mochi(tmp_path: Path) -> None:
    """Random weights know nothing of what was published: only that all is computed and said."""
    folder = deep_mochi(tmp_path / "mochi")
    said = run(
        folder, *SMALL, "--num-prompts", "1", "--skips", "residual", "--levels", "0.9",
        "--published", "--json",
    )  # fmt: skip
    found = json.loads(said.stdout)["published"]
    assert (found["layers"], found["members"]) == (48, 16)
    assert 0 <= found["area"] <= 1
    assert 0 < found["p_value"] <= 1
    assert set(found["areas"]) == {"hf", "-cos(d, c)", "middle"}
    # of 16 published layers and 32 others by their nearness to the middle, 23.5: pairs by hand
    best = {6, 7, 8, 9, 10, 21, 34, 35, 36, 38, 39, 43, 44, 45, 46, 47}
    near = {k: -abs(k - 23.5) for k in range(48)}
    pairs = [(near[a] > near[b]) + (near[a] == near[b]) / 2 for a in best for b in near
             if b not in best]  # fmt: skip
    assert found["areas"]["middle"] == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--map", "--layers", "9"), "layers of this MochiTransformer3DModel must be from 0 to 3"),
        (("--map", "--levels", "much"), "--levels must be shares of noise"),
        (("--map", "--levels", "1.5"), "levels of a scan must be shares of noise"),
        (("--map", "--skips", "all"), "skip must be one of"),
        (("--map", "--axes", "spatial"), "axis must be one that mochi has"),
        (("--map", "--axes", "sideways"), "--axes must be some of"),
        (("--map", "--published"), "--published needs a model whose best layers"),
        (("--map", "--images", "nowhere"), "--images must be a folder of pictures"),
        (("--map", "--prompts", "none.txt"), "none.txt"),
        (("--map", "--height", "33"), "height must be"),
        (("--steps", "3"), "--steps is for the map of the layers"),
        (("--published", "--out", "x"), "--published, --out are for the map of the layers"),
    ],
)
def test_what_is_wrong_is_said_before_the_weights_are_read(
    arguments: tuple[str, ...], message: str, tiny_mochi_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipguide.models import loading

    def never(*_: Any) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr(loading, "load", never)
    result = CliRunner().invoke(app, ["layers", str(tiny_mochi_dir), *arguments])
    assert result.exit_code == 2, repr(result.exception)
    assert message in " ".join(result.stderr.split())
