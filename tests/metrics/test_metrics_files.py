"""Folders as people have them: links, names that are not UTF-8, long and large and turned videos,
and an evaluation that ends early."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.metrics import evaluate, results
from skipguide.metrics.inputs import find_videos
from skipguide.metrics.networks import judge
from support.containers import encode, noise, turn
from support.measured import clips, write

Tensor = torch.Tensor
FLICKER = ["temporal_flickering"]


@pytest.fixture(scope="module")
def made() -> dict[str, Tensor]:
    return clips(12, seed=3)


def reasons(videos: Path) -> dict[str, str]:
    return {one.video: one.reason for one in evaluate(videos, metrics=FLICKER).skipped}


# --- turned ---------------------------------------------------------------------------------------


def test_sets_that_look_the_same_have_no_distance(tmp_path: Path, made: dict[str, Tensor]) -> None:
    """Phones write what their sensor sees, and a matrix.

    Grey and without loss, so that a turned picture is the upright one to the last bit.
    """
    exact = {"crf": "0", "preset": "ultrafast"}
    for name, clip in list(made.items())[:6]:
        grey = clip.float().mean(1).byte().numpy()[..., None].repeat(3, -1)
        lying = np.rot90(grey, 1, (1, 2))  # anticlockwise; the matrix turns it back
        encode(tmp_path / "upright" / f"{name}.mp4", grey, options=exact)
        encode(tmp_path / "lying" / f"{name}.mp4", lying, options=exact)
        turn(encode(tmp_path / "phone" / f"{name}.mp4", lying, options=exact), (0, 1, -1, 0))
    same, unturned = (
        evaluate(tmp_path / name, tmp_path / "upright", ["fvd:judge"])["fvd:judge"].value
        for name in ("phone", "lying")
    )
    assert same < 1e-6
    assert unturned > 10


def test_what_players_do_and_we_do_not_is_told(tmp_path: Path, made: dict[str, Tensor]) -> None:
    from fractions import Fraction

    def wide(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    frames = made["000"].permute(0, 2, 3, 1).numpy()
    encode(tmp_path / "set" / "a.mp4", frames, change=wide)
    encode(tmp_path / "set" / "b.mp4", frames)
    told = CliRunner().invoke(app, ["evaluate", str(tmp_path / "set"), "--metrics", FLICKER[0]])
    text = " ".join(told.stdout.split())
    assert "note, its pixels are 4:3 and not square" in text
    assert "read unstretched: generated a.mp4" in text
    result = evaluate(tmp_path / "set", metrics=FLICKER)
    result.save(tmp_path / "a.json")
    assert results.load(tmp_path / "a.json").readings.notes == result.readings.notes
    assert set(result.readings.notes["generated"]) == {"a.mp4"}


# --- links ----------------------------------------------------------------------------------------


def test_linked_folders_are_searched(tmp_path: Path, made: dict[str, Tensor]) -> None:
    """The value is that of the same videos without a link, and not of those that are no links."""
    for name, clip in made.items():
        write(tmp_path / "plain" / f"{name}.mp4", clip)
    shutil.copytree(tmp_path / "plain", tmp_path / "elsewhere")
    (tmp_path / "set" / "a").mkdir(parents=True)
    for i in range(6):
        (tmp_path / "elsewhere" / f"{i:03d}.mp4").rename(tmp_path / "set" / "a" / f"{i:03d}.mp4")
    (tmp_path / "set" / "b").symlink_to("../elsewhere")
    linked = evaluate(tmp_path / "set", metrics=["vendi:judge"])
    plain = evaluate(tmp_path / "plain", metrics=["vendi:judge"])
    assert linked["vendi:judge"].videos == 12
    assert linked["vendi:judge"].value == pytest.approx(plain["vendi:judge"].value, rel=1e-5)
    assert linked.skipped == ()


def test_whatever_is_not_read_is_named(tmp_path: Path, made: dict[str, Tensor]) -> None:
    folder, clip = tmp_path / "set", made["000"]
    write(folder / "a.mp4", clip)
    write(folder / "sub" / "b.mp4", clip)
    write(tmp_path / "outside" / "c.mp4", clip)
    (folder / "file.mp4").symlink_to(tmp_path / "outside" / "c.mp4")  # read as itself
    (folder / "gone.mp4").symlink_to("nowhere.mp4")
    (folder / "gone").symlink_to("nowhere")
    (folder / "circle.mp4").symlink_to("circle.mp4")
    (folder / "up").symlink_to("..")  # everything again, and what is outside
    (folder / "sub" / "self").symlink_to(".")
    os.mkfifo(folder / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s.mp4"))
    write(folder / ".hidden.mp4", clip)
    write(folder / "clip.mp4", clip).rename(folder / "noend")
    (folder / "a.mp4.json").write_text("{}")
    (folder / "frames").mkdir()
    for name in ("1.exr", "2.exr"):
        (folder / "frames" / name).write_bytes(b"v/1")
    Image.fromarray(noise(1)[0]).save(folder / "broken.png")
    found = reasons(folder)
    sizes = evaluate(folder, metrics=FLICKER).readings.sizes["generated"]
    assert set(sizes) == {"a.mp4", "sub/b.mp4", "file.mp4", "up/outside/c.mp4"}
    expected = {
        "gone.mp4": "it is a link to nowhere.mp4, which does not exist",
        "gone": "it is a link to nowhere, which does not exist",
        "circle.mp4": "it is a link to circle.mp4, which cannot be followed",
        "up/set": f"it is the folder {folder}, searched already",
        "sub/self": f"it is the folder {folder / 'sub'}, searched already",
        "pipe.mp4": "it is a pipe",
        "s.mp4": "it is a socket",
        ".hidden.mp4": "its name starts with a dot",
        "noend": "files without a suffix are not read (1 file)",
        "frames/*.exr": ".exr files are not read (2 files)",
        "* (images)": "1 image beside videos are taken for previews",
    }
    assert set(found) == set(expected)
    for name, start in expected.items():
        assert found[name].startswith(start), (name, found[name])


def test_a_missing_frame_is_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    for i, frame in enumerate(noise(4)):
        Image.fromarray(frame).save(tmp_path / "set" / "a" / f"{i}.png")
    (tmp_path / "set" / "a" / "2.png").unlink()
    (tmp_path / "set" / "a" / "2.png").symlink_to("lost.png")
    assert "2.png is not a file" in reasons(tmp_path / "set")["a"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs users of Unix")
def test_folders_that_may_not_be_read_are_named() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        encode(folder / "a.mp4", noise(3))
        encode(folder / "shut" / "b.mp4", noise(3))
        encode(folder / "c.mp4", noise(3)).chmod(0)
        (folder / "shut").chmod(0)
        with OtherUser():
            found = reasons(folder)
        (folder / "shut").chmod(0o755)
    assert found["shut"].startswith("the folder cannot be read (Permission denied)")
    assert "Permission denied" in found["c.mp4"]
    assert set(found) == {"shut", "c.mp4"}


class OtherUser:
    """Be nobody while the block runs, because root may read everything."""

    def __enter__(self) -> None:
        self.root = os.geteuid() == 0
        if self.root:
            os.seteuid(65534)

    def __exit__(self, *_: object) -> None:
        if self.root:
            os.seteuid(0)


def test_videos_that_are_links_are_exported(tmp_path: Path, made: dict[str, Tensor]) -> None:
    real = write(tmp_path / "real" / "clip.mp4", made["000"])
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a dog-0.mp4").symlink_to("../real/clip.mp4")
    (tmp_path / "chain").symlink_to(tmp_path / "set" / "a dog-0.mp4")
    (tmp_path / "set" / "a cat-0.mp4").symlink_to(tmp_path / "chain")
    args = ["--metrics", FLICKER[0], "--vbench-export", str(tmp_path / "vbench")]
    told = CliRunner().invoke(app, ["evaluate", str(tmp_path / "set"), *args])
    assert told.exit_code == 0
    for name in ("a dog-0.mp4", "a cat-0.mp4"):
        placed = tmp_path / "vbench" / "videos" / name
        assert not placed.is_symlink()
        assert placed.read_bytes() == real.read_bytes()


# --- memory ---------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
from skipguide.metrics import evaluate
from skipguide.metrics.selection import Options
for folder in sys.argv[2:]:
    result = evaluate(folder, metrics=sys.argv[1].split(","), options=Options(batch_size=8))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(*(result[name].videos for name in sys.argv[1].split(",")), peak)
"""


def peak_memory(metrics: str, *folders: Path) -> list[list[int]]:
    """How many videos each metric measured, and the most MiB so far, after each folder."""
    command = [sys.executable, "-c", MEASURE, metrics, *map(str, folders)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return [list(map(int, line.split())) for line in run.stdout.splitlines()]


def flat_videos(folder: Path, videos: int, count: int, height: int, width: int) -> Path:
    frames = np.broadcast_to(np.uint8(90), (count, height, width, 3))
    first = encode(folder / "0.mp4", frames, options={"preset": "ultrafast"})
    for i in range(1, videos):
        (folder / f"{i}.mp4").write_bytes(first.read_bytes())
    return folder


@pytest.mark.long
def test_memory_does_not_grow_with_length_or_number(tmp_path: Path) -> None:
    """The frames of the long videos are 330 MB, and were held twice and as floats."""
    short = flat_videos(tmp_path / "short", 2, 20, 360, 640)
    long = flat_videos(tmp_path / "long", 4, 120, 360, 640)
    before, after = peak_memory("vendi:judge,temporal_flickering", short, long)
    print(f"{before[-1]} MiB for 2 videos of 20 frames, {after[-1]} MiB for 4 of 120")
    assert after[:-1] == [4, 4]
    assert after[-1] - before[-1] < 60


@pytest.mark.long
@pytest.mark.parametrize(
    ("count", "height", "width"), [(3600, 360, 640), (168, 1080, 1920)], ids=["2.5 min", "full HD"]
)
def test_long_and_large_videos_need_less_than_2_gb(
    tmp_path: Path, count: int, height: int, width: int
) -> None:
    """Beside a short one, as in a set. They took 21.7 and 19.7 GB."""
    folder = flat_videos(tmp_path / "set", 2, count, height, width)
    flat_videos(tmp_path / "short", 1, 24, height, width).rename(folder / "short")
    ((judged, flicker, peak),) = peak_memory("vendi:judge,temporal_flickering", folder)
    print(f"{peak} MiB")
    assert (judged, flicker) == (3, 3)
    assert peak < 2048


def test_memory_that_runs_out_names_the_video_and_keeps_the_rest(
    tmp_path: Path, made: dict[str, Tensor]
) -> None:
    """The address space is limited for one video of a set."""
    for name in ("a", "c"):
        write(tmp_path / "set" / f"{name}.mp4", made["000"])
    flat_videos(tmp_path / "large", 1, 2, 4096, 4096)
    (tmp_path / "large" / "0.mp4").rename(tmp_path / "set" / "b.mp4")
    script = (
        "import resource, sys, json\n"
        "from skipguide.metrics import evaluate\n"
        "def note(name):\n"
        "    if name == 'b.mp4':\n"
        "        used = 4096 * int(open('/proc/self/statm').read().split()[0])\n"
        "        resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, -1))\n"
        "    elif name == 'c.mp4':\n"
        "        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n"
        "result = evaluate(sys.argv[1], metrics=['temporal_flickering'], note=note)\n"
        "print(json.dumps([result.readings.values, [one.__dict__ for one in result.skipped]]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "set")], capture_output=True, text=True
    )
    values, skipped = json.loads(run.stdout)
    assert set(values[FLICKER[0]]) == {"a.mp4", "c.mp4"}
    (one,) = skipped
    assert one["video"] == "b.mp4"
    assert "memory" in one["reason"].lower()


@pytest.mark.parametrize("count", [2, 5, 18, 19, 20, 47, 1000])
def test_the_judge_sees_the_nearest_frames(count: int) -> None:
    frames = torch.arange(count, dtype=torch.float32).view(1, 1, count, 1, 1)
    expected = F.interpolate(frames, (19, 1, 1), mode="nearest").flatten().long().tolist()
    assert judge.sample(count) == expected


# --- names and partial results --------------------------------------------------------------------

NAME = os.fsdecode(b"a d\xffg-0.mp4")  # no UTF-8


@pytest.fixture
def foreign(tmp_path: Path, made: dict[str, Tensor]) -> Path:
    write(tmp_path / "set" / "x.mp4", made["000"]).rename(tmp_path / "set" / NAME)
    (tmp_path / "set" / os.fsdecode(b"br\xf6ken.mp4")).write_text("this is no video")
    return tmp_path / "set"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_names_that_are_not_utf_8(foreign: Path, tmp_path: Path, encoding: str) -> None:
    runner, out = CliRunner(charset=encoding), tmp_path / "a.json"
    command = ["evaluate", str(foreign), "--metrics", FLICKER[0]]
    export = ["--out", str(out), "--vbench-export", str(tmp_path / "vbench")]
    told = runner.invoke(app, [*command, *export])
    assert (told.exit_code, told.stderr) == (0, "")
    assert "skipped" in told.stdout
    saved = results.load(out)
    assert set(saved.readings.values[FLICKER[0]]) == {NAME}
    placed = next((tmp_path / "vbench" / "videos").iterdir())
    assert placed.name == NAME
    assert list(json.loads((tmp_path / "vbench" / "prompts.json").read_text("utf-8"))) == [NAME]
    told = runner.invoke(app, [*command, "--json"])
    assert list(json.loads(told.stdout)["values"][FLICKER[0]]) == [NAME]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python leaves SIGINT alone in a process that was started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_keeps_what_was_read(tmp_path: Path, made: dict[str, Tensor]) -> None:
    content = write(tmp_path / "set" / "00.mp4", made["000"]).read_bytes()
    for i in range(1, 40):
        (tmp_path / "set" / f"{i:02d}.mp4").write_bytes(content)
    seen: list[str] = []

    def note(name: str) -> None:
        seen.append(name)
        if len(seen) == 21:
            signal.raise_signal(signal.SIGINT)

    kept: list[results.Result] = []
    with pytest.raises(KeyboardInterrupt):
        evaluate(
            tmp_path / "set", metrics=["temporal_flickering", "vendi:judge"], note=note,
            keep=kept.append,
        )  # fmt: skip
    (result,) = kept
    assert result["temporal_flickering"].videos == 20
    assert result["vendi:judge"].videos == 16  # whole batches of 8
    left = {one.video for one in result.skipped if one.metric == "all"}
    assert len(left) == 20
    result.save(tmp_path / "a.partial.json")
    assert results.load(tmp_path / "a.partial.json").readings.values == result.readings.values


def test_a_result_that_cannot_be_saved_is_shown_and_kept(
    tmp_path: Path, made: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder becomes a file while videos are measured."""
    write(tmp_path / "set" / "a.mp4", made["000"])
    out = tmp_path / "out" / "a.json"
    out.parent.mkdir()

    def measured(*args: Any) -> results.Result:
        out.parent.rmdir()
        out.parent.write_text("no folder")
        return evaluate(*args)

    monkeypatch.setattr("skipguide.metrics.evaluation.evaluate", measured)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = ["evaluate", str(tmp_path / "set"), "--metrics", FLICKER[0], "--out", str(out)]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 2
    assert "temporal_flickering" in told.stdout
    assert f"the result cannot be saved as {out}" in told.stderr
    rescued = Path(told.stderr.rsplit("It is saved as ", 1)[1].strip().removesuffix("."))
    assert results.load(rescued).readings.values[FLICKER[0]].keys() == {"a.mp4"}


def test_find_videos_of_a_folder_without_any(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"has none\. Check the name\. x\.mp4: it is a link to"):
        find_videos(tmp_path)
