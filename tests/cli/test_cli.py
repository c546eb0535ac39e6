"""The command line, through the commands that a user types."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import skipguide
from skipguide.cli import app, console, main
from skipguide.cli.compare import _NO_READING
from skipguide.cli.compare_files import column_settings
from skipguide.cli.names import file_name
from skipguide.files import packaged, video
from skipguide.generate import run as generation
from skipguide.generate.describe import describe_method
from skipguide.generate.resolve import resolve_guidance
from skipguide.generate.settings import validate_settings
from skipguide.lab import readers
from skipguide.models import loading
from support.saved import saved
from support.text_encoders import text_components
from support.tiny import builders

SMALL = (
    "--steps",
    "4",
    "--height",
    "32",
    "--width",
    "32",
    "--num-frames",
    "7",
    "--max-sequence-length",
    "16",
)
SMALL += ("--device", "cpu", "--layers", "2")
PROMPT = "a red star é 狐"


def run(*args: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def output(*args: str | Path, code: int = 0) -> Any:
    """The JSON on stdout, with nothing else on either stream."""
    result = run(args[0], "--json", *args[1:], code=code)
    assert result.stderr == ""
    return json.loads(result.stdout)


@pytest.fixture
def here(tmp_path: Path, tiny_mochi_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, with the model one folder up."""
    (tmp_path / "here").mkdir()
    (tmp_path / "tiny").symlink_to(tiny_mochi_dir)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture(scope="session")
def svd_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("StableVideoDiffusionPipeline", tmp_path_factory.mktemp("models"))


@pytest.fixture
def with_svd(here: Path, svd_dir: Path) -> Path:
    """The working directory with an image-to-video model one folder up, and a picture that is no
    square."""
    (here.parent / "svd").symlink_to(svd_dir)
    Image.radial_gradient("L").resize((60, 40)).convert("RGB").save(here / "My Photo.png")
    return here


def names(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


# --- generate and reproduce -----------------------------------------------------------------------


def test_generate_then_reproduce_is_bit_equal(here: Path) -> None:
    said = run(
        "generate",
        PROMPT,
        "--model",
        "../tiny",
        *SMALL,
        "--seed",
        "7",
        "--fps",
        "24000/1001",
        "--out",
        "star.mp4",
    )
    assert said.stdout.startswith(
        "star.mp4: 7 frames of 32x32 at 24000/1001 fps, seed 7\n2.25 passes"
    )
    assert names(here) == ["star.mp4", "star.mp4.json"]
    record = video.read_record(here / "star.mp4")
    assert record == json.loads((here / "star.mp4.json").read_text(encoding="utf-8"))
    assert (record["settings"]["prompt"], record["settings"]["model"]) == (PROMPT, "../tiny")
    assert run("reproduce", "star.mp4").stdout == "bit-equal\n"
    assert names(here) == ["star.mp4", "star.mp4.json"]
    again = output("reproduce", "star.mp4", "--out", "again.mp4")
    assert (again["bit_equal"], again["changed"], again["difference"], again["out"]) == (
        True,
        {},
        None,
        "again.mp4",
    )
    assert video.read_record(here / "again.mp4")["frames_sha256"] == record["frames_sha256"]
    (here / "star.mp4.json").unlink()
    assert run("reproduce", "star.mp4").stdout == "bit-equal\n"


def test_generate_json_and_the_default_name(here: Path) -> None:
    said = output("generate", "A red star!", "--model", "../tiny", *SMALL, "--stg-scale", "0")
    assert (said["video"], said["sidecar"]) == ("a-red-star-0.mp4", "a-red-star-0.mp4.json")
    assert said["passes_per_step"] == 2.0
    assert 0 < said["seconds_per_step"] < said["seconds"]
    assert said["record"] == video.read_record(here / "a-red-star-0.mp4")


def test_seed_changes_the_video(here: Path) -> None:
    made = [
        output("generate", "x", "--model", "../tiny", *SMALL, "--seed", seed) for seed in ("1", "2")
    ]
    assert made[0]["record"]["frames_sha256"] != made[1]["record"]["frames_sha256"]


def rewrite(path: Path, **changed: Any) -> None:
    """The same video with another record."""
    frames, fps = video.read(path)
    video.write(path, frames, fps, {**video.read_record(path), **changed})


def test_reproduce_says_which_version_changed(here: Path) -> None:
    run("generate", "x", "--model", "../tiny", *SMALL, "--out", "x.mp4")
    record = video.read_record(here / "x.mp4")
    rewrite(here / "x.mp4", versions={**record["versions"], "torch": "1.0"})
    said = run("reproduce", "x.mp4").stdout.splitlines()
    assert said[:2] == ["bit-equal", "changed since, to no effect:"]
    assert len(said) == 3
    assert said[2].startswith("  versions.torch: 1.0 -> 2.")
    rewrite(here / "x.mp4", frames_sha256="0" * 64)
    said = run("reproduce", "x.mp4", code=1).stdout.splitlines()
    assert said[0].startswith("not bit-equal: largest pixel difference ")
    assert said[1] == "changed since:"
    assert said[2].startswith("  versions.torch: 1.0 -> 2.")


def test_reproduce_says_that_nothing_known_changed(here: Path) -> None:
    run("generate", "x", "--model", "../tiny", *SMALL, "--out", "x.mp4")
    rewrite(here / "x.mp4", frames_sha256="0" * 64)
    assert "nothing that the record knows has changed" in run("reproduce", "x.mp4", code=1).stdout


def test_reproduce_sees_other_weights(here: Path, tiny_mochi_dir: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_mochi_dir, here / "mine")
    run("generate", "x", "--model", "mine", *SMALL, "--out", "x.mp4")
    weights = here / "mine" / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in load_file(weights).items()}, weights)
    said = output("reproduce", "x.mp4", code=1)
    assert said["bit_equal"] is False
    assert list(said["changed"]) == ["weights.sha256"]
    assert said["difference"] > 20
    moved = output("reproduce", "x.mp4", "--model", "../tiny")
    assert moved["bit_equal"] is True
    assert moved["changed"] == {"settings.model": ["mine", "../tiny"]}


def test_reproduce_uses_the_recorded_threads(here: Path) -> None:
    import torch

    before = torch.get_num_threads()
    run("generate", "x", "--model", "../tiny", *SMALL, "--out", "x.mp4")
    record = video.read_record(here / "x.mp4")
    rewrite(here / "x.mp4", machine={**record["machine"], "threads": before + 1})
    assert output("reproduce", "x.mp4")["record"]["machine"]["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_reproduce_refuses_other_videos(here: Path) -> None:
    with av.open("other.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=10, width=32, height=32, pix_fmt="yuv420p")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(stream.encode())
    assert "must carry a skipguide record" in run("reproduce", "other.mp4", code=2).stderr
    assert "none.mp4 is not a file. Check the name." in run("reproduce", "none.mp4", code=2).stderr


# --- videos that start from an image --------------------------------------------------------------

SVD = (
    "--model",
    "../svd",
    "--image",
    "My Photo.png",
    "--steps",
    "2",
    "--height",
    "16",
    "--width",
    "16",
)
SVD += ("--device", "cpu", "--layers", "up:0", "--skip", "attention")


def test_generate_from_an_image_then_reproduce_from_the_mp4_alone(with_svd: Path) -> None:
    said = run("generate", *SVD, "--stg-scale", "0", "--seed", "4").stdout
    assert said.startswith("my-photo-4.mp4: 3 frames of 16x16 at 7 fps, seed 4\n2.00 passes")
    record = video.read_record(with_svd / "my-photo-4.mp4")
    settings = record["settings"]
    assert (settings["prompt"], settings["image"], settings["motion_bucket_id"]) == (
        None,
        "My Photo.png",
        127,
    )
    assert len(record["image"]["sha256"]) == 64
    for file in with_svd.glob("*"):
        if file.name != "my-photo-4.mp4":
            file.unlink()
    assert run("reproduce", "my-photo-4.mp4").stdout == "bit-equal\n"
    again = output("reproduce", "my-photo-4.mp4", "--out", "again.mp4")["record"]
    assert (again["image"], again["frames_sha256"]) == (record["image"], record["frames_sha256"])
    assert run("reproduce", "again.mp4").stdout == "bit-equal\n"


def test_the_record_names_no_folder_of_the_image(with_svd: Path) -> None:
    (with_svd / "secret").mkdir()
    (with_svd / "My Photo.png").rename(with_svd / "secret" / "a.png")
    path = with_svd / "secret" / "a.png"
    made = output("generate", *SVD, "--image", path, "--stg-scale", "0", "--out", "x.mp4")["record"]
    assert made["settings"]["image"] == "a.png"
    assert "secret" not in json.dumps(made)


def test_options_of_svd_reach_it(with_svd: Path) -> None:
    own = (
        "--motion-bucket-id",
        "9",
        "--noise-aug-strength",
        "0.5",
        "--decode-chunk-size",
        "1",
        "--fps",
        "5",
    )
    own += ("--min-guidance-scale", "2", "--guidance-scale", "4")
    plain, other = (
        output("generate", *SVD, "--stg-scale", "0", *given, "--overwrite")["record"]
        for given in ((), own)
    )
    settings = other["settings"]
    assert (settings["motion_bucket_id"], settings["noise_aug_strength"], settings["fps"]) == (
        9,
        0.5,
        5,
    )
    assert (
        settings["min_guidance_scale"],
        settings["guidance_scale"],
        settings["decode_chunk_size"],
    ) == (2.0, 4.0, 1)
    assert other["frames_sha256"] != plain["frames_sha256"]


def test_reproduce_refuses_another_image_in_the_record(with_svd: Path) -> None:
    run("generate", *SVD, "--stg-scale", "0", "--out", "x.mp4")
    image = video.read_record(with_svd / "x.mp4")["image"]
    rewrite(with_svd / "x.mp4", image={**image, "sha256": "0" * 64})
    assert (
        "the image in the record of x.mp4 must match the sha256 stored with it"
        in run("reproduce", "x.mp4", code=2).stderr
    )
    rewrite(with_svd / "x.mp4", image=None)
    assert (
        "must carry it in its record, but the record of x.mp4 has none."
        in run("reproduce", "x.mp4", code=2).stderr
    )


@pytest.mark.long
def test_generate_with_spatial_and_temporal_guidance(with_svd: Path) -> None:
    both = ("--spatial-scale", "2", "--temporal-scale", "0.5")
    given = [
        ("--stg-scale", "0"),
        both[:2],
        both,
        (*both, "--orthogonalize"),
        (*both, "--no-orthogonalize"),
    ]
    made = [output("generate", *SVD, *scales, "--overwrite")["record"] for scales in given]
    digests = [record["frames_sha256"] for record in made]
    assert len(set(digests)) == 4
    assert digests[2] == digests[4]
    requests = [record["settings"]["guidance"] for record in made]
    assert [request.get("orthogonalize", False) for request in requests] == [False] * 3 + [
        True,
        False,
    ]
    run("generate", *SVD, *both, "--orthogonalize", "--out", "x.mp4")
    assert run("reproduce", "x.mp4").stdout == "bit-equal\n"


def test_compare_from_an_image_is_three_columns(with_svd: Path) -> None:
    said = output("compare", *SVD, "--spatial-scale", "2", "--temporal-scale", "0.5")
    assert said["files"] == ["compare/my-photo-0.mp4", "compare/my-photo-0.png"]
    told = [(run["prompt"], run["image"], run["method"]) for run in said["runs"]]
    assert told == [
        (None, "My Photo.png", "CFG 1 to 3"),
        (None, "My Photo.png", "CFG 1 to 3 + STG spatial 2 (attention up:0)"),
        (None, "My Photo.png", "CFG 1 to 3 + STG spatial 2 + temporal 0.5 (attention up:0)"),
    ]
    assert video.read(with_svd / said["files"][0])[0].shape == (3, 24 + 256, 3 * 260 - 4, 3)
    record = video.read_record(with_svd / said["files"][0])
    alone = output("generate", *SVD, "--stg-scale", "0")["record"]
    assert record["image"] == alone["image"]
    assert record["runs"][0]["frames_sha256"] == alone["frames_sha256"]


# --- spatial and temporal guidance of a model with prompts ----------------------------------------


@pytest.fixture
def with_latte(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (here.parent / "latte").symlink_to(saved("LattePipeline", tmp_path_factory.mktemp("models")))
    return here


LATTE = (
    "--model",
    "../latte",
    "--steps",
    "3",
    "--height",
    "8",
    "--width",
    "8",
    "--num-frames",
    "2",
)
LATTE += ("--device", "cpu", "--layers", "1", "--spatial-scale", "2")


def test_compare_is_three_columns_where_both_axes_are_skipped(
    with_latte: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = (*LATTE, "--temporal-scale", "0.5")
    said = output("compare", "a red star", *both)
    methods = [
        "CFG 7.5",
        "CFG 7.5 + STG spatial 2 (residual 1)",
        "CFG 7.5 + STG spatial 2 + temporal 0.5 (residual 1)",
    ]
    assert [run["method"] for run in said["runs"]] == methods
    assert video.read(with_latte / said["files"][0])[0].shape == (2, 24 + 256, 3 * 260 - 4, 3)
    with Image.open(with_latte / said["files"][1]) as picture:
        assert picture.size == (2 * 196 - 4, 24 + 3 * (24 + 192))
    digests = [run["record"]["frames_sha256"] for run in said["runs"]]
    assert len(set(digests)) == 3
    alone = [("--spatial-scale", "0"), (), ("--temporal-scale", "0.5")]
    made = [
        output("generate", "a red star", *LATTE, *given, "--overwrite")["record"] for given in alone
    ]
    assert [record["frames_sha256"] for record in made] == digests
    monkeypatch.setenv("COLUMNS", "160")
    table = run("compare", "a red star", *both, "--overwrite").stdout
    assert all(sum(method in line for line in table.splitlines()) >= 1 for method in methods)


def test_compare_is_two_columns_where_one_axis_is_skipped(with_latte: Path) -> None:
    said = output("compare", "a red star", *LATTE)
    assert [run["method"] for run in said["runs"]] == [
        "CFG 7.5",
        "CFG 7.5 + STG spatial 2 (residual 1)",
    ]


def test_method_of_orthogonal_terms() -> None:
    given = {
        "prompt": "p",
        "layers": "up:0",
        "spatial_scale": 2.0,
        "temporal_scale": 0.5,
        "orthogonalize": True,
    }
    settings = validate_settings(
        {**given, "skip": "attention", "guidance_scale": 1.0, "stg_scale": 1.0}
    )
    settings = settings.model_copy(update={"guidance": resolve_guidance(settings.guidance, None)})
    columns = [describe_method(column) for column in column_settings(settings)]
    assert columns == [
        "no CFG",
        "no CFG + STG 1 + spatial 2 (attention up:0)",
        "no CFG + STG 1 + spatial 2 + temporal 0.5 (attention up:0, orthogonal)",
    ]


# --- compare --------------------------------------------------------------------------------------


def test_compare_is_two_generations_from_the_same_noise(here: Path) -> None:
    said = output(
        "compare",
        "a red star",
        "a blue square",
        "--model",
        "../tiny",
        *SMALL,
        "--seed",
        "5",
        "--out-dir",
        "c",
    )
    files = [
        "c/a-red-star-5.mp4",
        "c/a-red-star-5.png",
        "c/a-blue-square-5.mp4",
        "c/a-blue-square-5.png",
    ]
    assert said["files"] == files
    clips = [
        f"c/{method}/{name}-5.mp4"
        for name in ("a-red-star", "a-blue-square")
        for method in ("cfg-4.5", "cfg-4.5-stg-1-residual-2")
    ]
    assert [run["clip"] for run in said["runs"]] == clips
    records = [f"{file}.json" for file in [*files[::2], *clips]]
    assert names(here) == sorted([*files, *clips, *records, "c/ledger.sqlite"])
    told = [
        (run["prompt"], run["method"], run["passes_per_step"], run["judge"]) for run in said["runs"]
    ]
    stg = "CFG 4.5 + STG 1 (residual 2)"
    assert told == [
        ("a red star", "CFG 4.5", 2.0, None), ("a red star", stg, 2.25, None),
        ("a blue square", "CFG 4.5", 2.0, None), ("a blue square", stg, 2.25, None),
    ]  # fmt: skip
    assert video.read(here / files[0])[0].shape == (7, 24 + 256, 2 * 256 + 4, 3)
    with Image.open(here / files[1]) as picture:
        assert picture.size == (7 * 196 - 4, 24 + 2 * (24 + 192))
    assert [run["record"] for run in said["runs"][:2]] == video.read_record(here / files[0])["runs"]
    for i, scale in enumerate(("0", "1")):
        alone = output(
            "generate",
            "a red star",
            "--model",
            "../tiny",
            *SMALL,
            "--seed",
            "5",
            "--stg-scale",
            scale,
            "--overwrite",
        )
        assert alone["record"]["frames_sha256"] == said["runs"][i]["record"]["frames_sha256"]


def test_compare_prints_a_table_with_the_judges_reading(
    here: Path, tiny_mochi_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge (here an untrained one) reads the videos of the built-in model."""
    monkeypatch.setattr(packaged, "packaged_path", {"lab-mochi": tiny_mochi_dir}.__getitem__)
    untrained = readers.CLOSED.build().eval()
    reader = dataclasses.replace(readers.CLOSED, load=lambda: untrained)
    monkeypatch.setitem(readers.OF_MODEL, "lab-mochi", reader)
    monkeypatch.setenv("COLUMNS", "160")
    said = run("compare", "a red star", *SMALL, "--guidance-scale", "1").stdout
    rows = [line for line in said.splitlines() if "a red star" in line]
    assert "no CFG " in rows[0]
    assert " 1.00 " in rows[0]
    assert "no CFG + STG 1 (residual 2)" in rows[1]
    assert " 1.25 " in rows[1]
    assert said.splitlines()[-2:] == ["compare/a-red-star-0.mp4", "compare/a-red-star-0.png"]
    runs = output("compare", "a red star", *SMALL, "--guidance-scale", "1", "--overwrite")["runs"]
    for row, run_ in zip(rows, runs, strict=True):
        assert " ".join(run_["judge"][name] for name in ("colour", "shape", "motion")) in row


def test_compare_says_why_the_judge_reads_nothing_in_other_videos(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    said = run("compare", "a red star", "--model", "../tiny", *SMALL).stdout
    assert "┃ judge reads" not in said
    assert "The judge reads colour, shape and motion in videos of the built-in models" in said
    again = output("compare", "a red star", "--model", "../tiny", *SMALL, "--overwrite")
    assert again["notes"] == [_NO_READING]


@pytest.mark.parametrize("name", packaged.NAMES)
def test_the_judge_knows_a_model_of_the_lab_by_how_it_is_built(name: str) -> None:
    """One that somebody trained anew has another name and other weights."""
    pipe = loading.load_pipeline(str(packaged.packaged_path(name)))
    assert readers.reader_of(pipe) is readers.OF_MODEL[name]
    model = pipe.unet if name == "lab-svd" else pipe.transformer
    model.register_to_config(num_attention_heads=7)
    assert readers.reader_of(pipe) is None


@pytest.mark.parametrize("existing", ["x-0.mp4", "x-0.mp4.json", "x-0.png"])
def test_compare_overwrites_only_when_told(here: Path, existing: str) -> None:
    (here / "compare").mkdir()
    (here / "compare" / existing).write_text("mine")
    said = run("compare", "y", "x", "--model", "no such model", code=2)
    assert (
        said.stderr
        == f"error: the output must be a new file, but compare/{existing} exists. Pass --overwrite"
        " or another name.\n"
    )
    assert names(here) == [f"compare/{existing}"]
    run("compare", "x", "--model", "../tiny", *SMALL, "--overwrite")
    assert (here / "compare" / existing).read_bytes() != b"mine"


# --- the file of settings -------------------------------------------------------------------------


def test_config_file_and_command_line_over_it(here: Path) -> None:
    (here / "c.yaml").write_text(
        "prompt: ein Stern für 狐\nmodel: ../tiny\nlayers: [1, 2]\nstg_scale: 2\nskip:"
        " attention\nsteps: 4\nheight: 32\nwidth: 32\nnum_frames: 7\nfps:"
        " 24000/1001\nmax_sequence_length: 16\ndevice: cpu\nseed: 9\n",
        encoding="utf-8",
    )
    settings = output(
        "generate", "--config", "c.yaml", "--layers", "3", "--skip", "residual", "--out", "a.mp4"
    )["record"]["settings"]
    assert settings["guidance"] == {"terms": [{"layers": [3], "scale": 2.0}]}
    assert (settings["prompt"], settings["seed"]) == ("ein Stern für 狐", 9)
    assert settings["fps"] == "24000/1001"
    assert (
        output("generate", "other", "-c", "c.yaml", "--out", "b.mp4")["record"]["settings"][
            "prompt"
        ]
        == "other"
    )
    assert output("compare", "-c", "c.yaml")["runs"][0]["prompt"] == "ein Stern für 狐"


# --- errors ---------------------------------------------------------------------------------------

EARLY = [  # refused before a model is loaded: what is typed, and a part of the answer
    (
        "generate",
        (
            "a prompt, an image or both are needed, but got neither. Set them with PROMPT and"
            " --image, or as"
        ),
    ),
    (
        "generate --image none.png",
        "image must be an image file, but none.png is not a file. Check the name.",
    ),
    (
        "generate --image folder.mp4",
        "image must be an image file, but folder.mp4 is not a file.",
    ),
    (
        "generate --image list.yaml",
        "(PNG, JPEG, WEBP, BMP, GIF, TIFF), but list.yaml cannot be read as one (",
    ),
    ("generate --image good.mp4", "but good.mp4 cannot be read as one ("),
    ("generate --image cut.png", "but cut.png cannot be read as one ("),
    (
        "generate --image huge.png",
        "image must have at most 64 megapixels, but huge.png has 65. Make it smaller",
    ),
    (
        "generate --image small.png",
        "image must be at least 16 pixels wide and high, but small.png is 4 x 40. Use",
    ),
    (
        "generate --image film.gif",
        "image must be a single image, but film.gif holds 2 frames or pages. Save the one that",
    ),
    ("generate x --image none.png --config image.yaml", "but none.png is not a file."),
    ("generate --config image.yaml", "but small.png is 4 x 40."),
    (
        "compare --image none.png",
        "image must be an image file, but none.png is not a file. Check the name.",
    ),
    (
        "generate x --spatial-scale -1",
        "spatial_scale must be a finite number >= 0 (0 is off), but got -1.0. Set it",
    ),
    (
        "generate x --temporal-scale inf",
        "temporal_scale must be a finite number >= 0 (0 is off), but got inf.",
    ),
    (
        "generate x --spatial-scale 2 --orthogonalize",
        "orthogonalize needs a spatial_scale and a temporal_scale",
    ),
    (
        "generate x --motion-bucket-id 1.5",
        "motion_bucket_id must be a whole number >= 0, but got '1.5'. Set it with",
    ),
    (
        "generate x --min-guidance-scale 2 --guidance-scale 1",
        "min_guidance_scale above 1 needs a guidance_scale above",
    ),
    ("generate x --steps -3", "steps must be a whole number >= 1, but got -3. Set it with --steps"),
    (
        "generate x --steps many",
        "steps must be a whole number >= 1, but got 'many'. Set it with --steps",
    ),
    (
        "generate x --stg-scale nan",
        "stg_scale must be a finite number >= 0 (0 is off), but got nan. Set it with --stg-scale",
    ),
    ("generate x --layers 8;9", "layers must be block numbers from 0 on"),
    (
        "generate x --height 33",
        "height must be an even whole number of pixels (the mp4 needs it), but got 33.",
    ),
    ("generate x --start 0.5 --stop 0.25", "stop must be larger than start"),
    ("generate x --stgscale 1", "No such option: --stgscale"),
    ("generate x y", "Got unexpected extra argument"),
    ("generate x --seed", "Option '--seed' requires an argument"),
    ("genrate x", "No such command 'genrate'"),
    ("--nope", "No such option: --nope"),
    ("reproduce", "Missing argument 'VIDEO'"),
    ("generate x --out .", "the output must be a file, but . is a folder. Name a file in it."),
    ("generate x --out ..", "the output must be a file, but .. is a folder."),
    ("reproduce good.mp4 --out .", "the output must be a file, but . is a folder."),
    ("generate x --out x.avi", "the output must be named .mp4, but got 'x.avi'. Name it x.mp4."),
    (
        "generate x --out old.mp4",
        "the output must be a new file, but old.mp4 exists. Pass --overwrite or another name.",
    ),
    (
        "generate x --out side.mp4",
        "the output must be a new file, but side.mp4.json exists. Pass --overwrite",
    ),
    (
        "generate x --out folder.mp4",
        "the output must be a file, but folder.mp4 is a folder. Name a file in it.",
    ),
    (
        "generate x --out folder.mp4 --overwrite",
        "the output must be a file, but folder.mp4 is a folder.",
    ),
    ("generate x --out old.mp4/a/b.mp4", "the output must lie in a writable folder, but "),
    (
        "generate x --config none.yaml",
        "a hub id), but got none.yaml, and there is no such file or folder. Check the name.",
    ),
    ("generate x --config broken.yaml", "--config must be a YAML file, but broken.yaml is not: "),
    (
        "generate x --config list.yaml",
        "--config must hold lines such as steps: 28, but list.yaml holds list. Write",
    ),
    ("generate x --config empty.yaml", "but empty.yaml holds NoneType."),
    (
        "generate x --config twice.yaml",
        "twice.yaml is not: steps stands on line 1 and on line 3, but only one of them can count."
        " Keep one.\n",
    ),
    ("generate x --config broken.yaml", ". Correct it there.\n"),
    ("generate x --schedule twice.yaml", "only one of them can count. Keep one.\n"),
    ("generate x --config typo.yaml", "but got 'guidance_scal'. Did you mean 'guidance_scale'?"),
    (
        "generate x --config text.yaml",
        "steps must be a whole number >= 1, but got '4'. Set it with --steps",
    ),
    ("compare", "a prompt, an image or both are needed, but got neither."),
    (
        "compare x --stg-scale 0",
        "compare needs guidance beside CFG, but got a scale of 0: all would be the same.",
    ),
    (
        "compare x --spatial-scale 0 --temporal-scale 0",
        "compare needs guidance beside CFG, but got a scale of 0:",
    ),
    ("compare x --out-dir old.mp4", "the output must lie in a writable folder, but "),
    ("reproduce old.mp4", "a video file is needed, but old.mp4 cannot be read as one"),
    ("reproduce good.mp4 --out good.mp4", "the output must be a new file, but good.mp4 exists."),
    ("reproduce good.mp4 --out good.avi", "the output must be named .mp4, but got 'good.avi'."),
    ("reproduce good.mp4 --device gpu", "device must be "),
]
LATE = [  # refused by the model
    ("generate x --model ../here", "and there is no ../here/model_index.json. Name the folder"),
    ("generate x --model ./none", "but got './none', and there is no such folder. Check the name."),
    ("generate x --model ../tiny", "none is known for a MochiPipeline of 4 blocks"),
    (
        "generate x --model ../tiny --layers 9 --steps 2 --height 32 --width 32",
        "must be from 0 to 3 (4 blocks), but got 9",
    ),
    (
        "generate x --model ../tiny --layers 1 --steps 1 --height 32 --width 32",
        "steps must be enough for the schedule",
    ),
    (
        "generate x --model ../tiny --layers 1 --steps 4 --height 34 --width 32",
        "multiples of 8 for MochiPipeline, but got 34",
    ),
    (
        "generate x --model ../tiny --layers 1 --image good.png",
        "image must be left out for a MochiPipeline, which",
    ),
    (
        "compare x --model ../tiny --layers 1 --image good.png",
        "got 'good.png'. Leave out --image, or choose another",
    ),
    (
        "generate x --model ../tiny --layers 1 --motion-bucket-id 3",
        "motion_bucket_id must be left out for a MochiPi",
    ),
    (
        "generate --model ../tiny --layers 1 --image good.png",
        "image must be left out for a MochiPipeline",
    ),
    (
        "generate x --model ../tiny --layers 1 --spatial-scale 1 --steps 2 --height 32 --width 32",
        "axis",
    ),
    (
        "compare x --model ../tiny --layers 9 --steps 2 --height 32 --width 32 --num-frames 7",
        "(4 blocks), but got 9",
    ),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are in the way, or are not what they should be."""
    here = tmp_path_factory.mktemp("full")
    (here / "old.mp4").write_text("mine")
    (here / "side.mp4.json").write_text("mine")
    (here / "folder.mp4").mkdir()
    (here / "broken.yaml").write_text("a: [1,\nb: {")
    (here / "list.yaml").write_text("- 1\n- 2\n")
    (here / "empty.yaml").write_text("")
    (here / "typo.yaml").write_text("guidance_scal: 4.5\n")
    (here / "twice.yaml").write_text("steps: 4\nseed: 1\nsteps: 8\n")
    (here / "text.yaml").write_text("steps: '4'\n")
    (here / "image.yaml").write_text("image: small.png\n")
    good = Image.effect_noise((40, 40), 50)
    good.save(here / "good.png")
    (here / "cut.png").write_bytes((here / "good.png").read_bytes()[:500])
    Image.new("1", (6500, 10_000)).save(here / "huge.png")
    Image.new("RGB", (4, 40)).save(here / "small.png")
    good.save(here / "film.gif", save_all=True, append_images=[good.rotate(90)])
    record = {"format": 1, "settings": {"prompt": "p"}}
    video.write(here / "good.mp4", np.zeros((1, 32, 32, 3), np.uint8), 10, record)
    return here


@pytest.fixture
def full(here: Path, written: Path) -> Path:
    """The working directory with such files."""
    return Path(shutil.copytree(written, here, dirs_exist_ok=True))


def refused(full: Path, typed: str, message: str) -> None:
    before = names(full)
    said = run(*typed.split(), code=2)
    assert said.stdout == ""
    assert said.stderr.startswith("error: ")
    assert message in said.stderr
    assert said.stderr.count("\n") == 1
    assert output(*typed.split(), code=2) == {
        "error": said.stderr.removeprefix("error: ").rstrip("\n")
    }
    assert names(full) == before


@pytest.mark.parametrize(("typed", "message"), EARLY)
def test_refused_before_the_model_loads(
    full: Path, typed: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(loading, "load", load)
    refused(full, typed, message)


@pytest.mark.parametrize(
    "typed",
    [
        "sweep p.yaml --out", "report x -o", "compare x --out-dir", "evaluate x --vbench-export",
        "convert opensora --transformer a --vae b --text-encoder c --out",
        "lab train mochi --folder", "lab pack mochi --docs", "paper report --docs",
        "paper report --folder",
    ],
)  # fmt: skip
def test_a_folder_without_a_name_is_not_the_current_one(here: Path, typed: str) -> None:
    said = run(*typed.split(), "", code=2).stderr
    assert f"'{typed.split()[-1]}'" in said or "'--out' / '-o'" in said
    assert "a folder must have a name, but got an empty one. Name it; the current" in said
    assert names(here) == []


@pytest.mark.parametrize(("typed", "message"), LATE)
def test_refused_by_the_model(full: Path, typed: str, message: str) -> None:
    refused(full, f"{typed} --device cpu", message)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "generate x",
            (
                "prompt must be left out for a StableVideoDiffusionPipeline, which does not take"
                " it, but got"
            ),
        ),
        (
            "generate x --image good.png",
            "prompt must be left out for a StableVideoDiffusionPipeline, which does not",
        ),
        (
            "generate --image good.png --negative-prompt y",
            "negative_prompt must be left out for a StableVideo",
        ),
        ("compare x --image good.png", "got 'x'. Leave out PROMPT, or choose another --model."),
    ],
)
def test_refused_by_svd(full: Path, svd_dir: Path, typed: str, message: str) -> None:
    (full.parent / "svd").symlink_to(svd_dir)
    refused(full, f"{typed} --model ../svd --layers up:0 --device cpu", message)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "generate x",
            (
                "image must be given for a LTXImageToVideoPipeline, but got nothing. Set it with"
                " --image."
            ),
        ),
        (
            "compare x",
            (
                "image must be given for a LTXImageToVideoPipeline, but got nothing. Set it with"
                " --image."
            ),
        ),
        (
            "generate --image good.png",
            "prompt must be given for a LTXImageToVideoPipeline, but got nothing. Set it",
        ),
    ],
)
def test_refused_by_a_model_of_image_and_prompt(
    full: Path, tmp_path_factory: pytest.TempPathFactory, typed: str, message: str
) -> None:
    (full.parent / "ltx").symlink_to(
        saved("LTXImageToVideoPipeline", tmp_path_factory.mktemp("models"))
    )
    refused(full, f"{typed} --model ../ltx --layers 1 --device cpu", message)


def test_unwritable_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != here
    )  # root may write anywhere
    refused(
        here,
        "generate x --out a/b.mp4",
        f"the output must lie in a writable folder, but {here} is not one. Choose",
    )


def test_overwrite(here: Path) -> None:
    (here / "x.mp4").write_text("mine")
    run("generate", "x", "--model", "../tiny", *SMALL, "--out", "x.mp4", "--overwrite")
    assert video.read_record(here / "x.mp4")["settings"]["prompt"] == "x"


def test_a_bug_is_not_dressed_up_as_a_users_error(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(loading, "load", load)
    result = CliRunner().invoke(app, ["generate", "x"])
    assert isinstance(result.exception, RuntimeError)
    assert result.exit_code == 1
    (note,) = result.exception.__notes__  # under the traceback
    assert note.startswith("error: RuntimeError: a bug. This is a fault of skipguide or of a")
    result = CliRunner().invoke(app, ["generate", "x", "--json"])
    assert json.loads(result.stdout)["error"] == note.removeprefix("error: ")


# --- killed half-way ------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["generate", "compare"])
def test_interrupted_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    @contextlib.contextmanager
    def impatient(title: str) -> Iterator[generation.StepCallback]:
        def on_step(step: generation.StepProgress) -> None:
            if step.number == 2:
                raise KeyboardInterrupt

        yield on_step

    monkeypatch.setattr(console, "progress", impatient)
    said = run(verb, "x", "--model", "../tiny", *SMALL, code=130)
    assert said.stdout == ""
    assert said.stderr == "error: interrupted; every file that was written is complete.\n"
    assert output(verb, "x", "--model", "../tiny", *SMALL, code=130).keys() == {"error"}
    assert names(here) == []


def test_interrupted_while_writing_keeps_the_old_video(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(part: Path, *_: Any) -> None:
        part.write_bytes(b"half")
        raise KeyboardInterrupt

    (here / "x.mp4").write_text("mine")
    monkeypatch.setattr(video, "_encode", half)
    run("generate", "x", "--model", "../tiny", *SMALL, "--out", "x.mp4", "--overwrite", code=130)
    assert names(here) == ["x.mp4"]
    assert (here / "x.mp4").read_text() == "mine"


def test_terminated_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real SIGTERM in the middle of a step, through the real entry point."""
    usual, handler = generation._StepTimer.__call__, signal.getsignal(signal.SIGTERM)

    def killed(clock: Any, *args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return usual(clock, *args)

    monkeypatch.setattr(generation._StepTimer, "__call__", killed)
    monkeypatch.setattr(sys, "argv", ["skipguide", "generate", "x", "--model", "../tiny", *SMALL])
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert end.value.code == 130
    assert names(here) == []


# --- progress, help, imports, the hub -------------------------------------------------------------


def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with console.progress("denoising") as on_step:
        assert on_step is not None
        on_step(generation.StepProgress(2, 28, 2.25, 61.2))
    assert "step 2/28, 2.25 passes per step, 61 s left" in terminal.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with console.progress("denoising") as on_step:
        assert on_step is None


def test_help_and_version() -> None:
    import skipguide

    assert run("--version").stdout == f"{skipguide.__version__}\n"
    assert run().stdout == run("--help").stdout
    assert all(
        f"  {verb} " in run("--help").stdout for verb in ("generate", "compare", "reproduce")
    )
    for verb in ("generate", "compare"):
        said = run(verb, "--help").stdout
        assert all(
            option in said
            for option in ("--stg-scale FLOAT", "--layers TEXT", "--steps INT", "--num-frames INT")
        )
        assert "--orthogonalize / --no-orthogonalize" in " ".join(said.split())
        assert "--image TEXT" in said


def test_the_list_of_verbs_is_whole() -> None:
    """No sentence is cut, and a verb of verbs alone prints its list in lines, as a refusal."""
    for args in ([], ["lab"], ["paper"], ["runs"], ["votes"], ["convert"]):
        listed = run(*args, "--help").stdout
        assert "..." not in listed.partition("Commands:")[2]
        if args:
            assert run(*args, code=2).stderr.rstrip() == listed.rstrip()


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys, contextlib, io\nfrom skipguide.cli import main\nsys.argv = ['skipguide',"
        " '--help']\nwith contextlib.redirect_stdout(io.StringIO()),"
        " contextlib.suppress(SystemExit):\n    main()\nprint(*sorted({'torch', 'diffusers',"
        " 'transformers', 'numpy', 'av', 'PIL', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"


def test_no_message_speaks_of_files_that_a_wheel_does_not_have() -> None:
    """Of the repository's docs/ only the command that writes one of its pages may speak."""
    found = {
        (path.name, text.strip())
        for path in Path(skipguide.__file__).parent.rglob("*.py")
        for text in _messages(ast.parse(path.read_text(encoding="utf-8")))
        if re.search(r"\bdocs/\S|\bexamples/\S", text)
    }
    assert found == {("tables.py", "skipguide families --markdown > docs/families.md")}


def _messages(module: ast.Module) -> Iterator[str]:
    """The strings of a module that are not docstrings; of commands these are help, and count."""
    with_docs = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, with_docs) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and id(node) not in docstrings:
            yield text


@pytest.mark.long
def test_stderr_is_empty_without_a_terminal() -> None:
    """Image models import what transformers has with torchvision and without."""
    done = _python("import sys\nfrom skipguide.cli import main\nmain()", "layers", "lab-svd")
    assert done.stdout
    assert done.stderr == ""


@pytest.mark.long
def test_annotations_of_pipelines_are_no_news(tmp_path: Path) -> None:
    """SkyReels' class wants another image processor than it has."""
    tiny = builders()["SkyReelsV2ImageToVideoPipeline"](torch.float32)
    texts = text_components("skyreels-v2", tiny.call, tmp_path / "tokenizers")
    tiny.pipe.register_modules(**texts)
    tiny.pipe.save_pretrained(tmp_path / "model")
    load = (
        "import sys\nfrom skipguide.models.loading import load_pipeline\n"
        "load_pipeline(sys.argv[1], device='cpu')"
    )
    hide = "from skipguide.cli.console import hide_library_notices\nhide_library_notices()\n"
    assert "Expected types" in _python(load, tmp_path / "model").stderr
    assert _python(hide + load, tmp_path / "model").stderr == ""


def _python(script: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_models_from_the_hub(here: Path, tiny_mochi_dir: Path) -> None:
    """In a process of its own, because the hub's client reads where its cache is when it is
    imported."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    cache = here / "hub" / "models--me--tiny"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(revision)
    shutil.copytree(tiny_mochi_dir, cache / "snapshots" / revision)

    script = "\n".join((
        "import sys", "from skipguide.cli import main", "given = sys.argv[1:]",
        "for model in ('me/tiny', 'me/none'):",
        "    sys.argv = ['skipguide', 'generate', 'x', '--model', model, *given]", "    try:",
        "        main()", "    except SystemExit as end:",
        "        print(f'{{\"ended\": {end.code}}}')",
    ))  # fmt: skip
    command = [sys.executable, "-c", script, *SMALL, "--overwrite", "--json"]
    environment = {**os.environ, "HF_HUB_CACHE": str(here / "hub"), "HF_HUB_OFFLINE": "1"}
    said = subprocess.run(command, capture_output=True, text=True, env=environment)
    found, first, missing, second = map(json.loads, said.stdout.splitlines())
    assert found["record"]["weights"] == {"revision": revision}, said.stderr
    assert missing["error"].startswith(
        "model must be a local folder or a model on the hub, but 'me/none'"
    )
    assert (first["ended"], second["ended"]) == (0, 2)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red star!", "a-red-star-3"),
        ("Über Größe", "uber-große-3"),
        ("狐", "狐-3"),
        ("月の下を走る、赤い星", "月の下を走る-赤い星-3"),
        ("か\u3099", "が-3"),  # as macOS writes it
        ("नमस्ते", "नमस्ते-3"),
        ("🦊 & 🦊🏽!", "fox-face-fox-face-3"),
        ("❤️", "heavy-black-heart-3"),
        ("!?", "video-3"),
        ("狐" * 90, "狐" * 53 + "-3"),
        ("../x", "x-3"),
        ("x" * 90, "x" * 60 + "-3"),
    ],
)
def test_file_names_from_prompts(prompt: str, name: str) -> None:
    assert file_name(validate_settings({"prompt": prompt, "image": "other.png", "seed": 3})) == name


@pytest.mark.parametrize(
    ("image", "name"),
    [("My Photo.final.PNG", "my-photo-final-3"), ("a/b/狐.png", "狐-3"), ("../x", "x-3")],
)
def test_file_names_from_images(image: str, name: str) -> None:
    assert file_name(validate_settings({"image": image, "seed": 3})) == name
