"""mp4 files: what comes back out of them, and that they are never half there."""

from __future__ import annotations

import base64
import ctypes
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from skipguide.files import places, video
from skipguide.files.video import Frames
from skipguide.lab import world

RECORD = {
    "settings": {"prompt": "ein Fuchs läuft, 狐が走る 🦊", "fps": "24000/1001"},
    "long": "x" * 4000,
}


@pytest.fixture(scope="module")
def clip() -> Frames:
    """(19, 64, 64, 3): a moving shape, as the lab draws it."""
    frames = world.render(world.sample_scenes(1, seed=1))[0]
    return ((frames + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()


def plain_video(
    path: Path, tags: dict[str, str] | None = None, container_format: str = "mp4"
) -> Path:
    """A video that skipguide did not write."""
    with av.open(str(path), "w", format=container_format) as container:
        container.metadata.update(tags or {})
        stream = container.add_stream("libx264", rate=10, width=32, height=32, pix_fmt="yuv420p")
        container.mux(
            stream.encode(
                av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            )
        )
        container.mux(stream.encode())
    return path


def psnr(a: Frames, b: Frames) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


@pytest.mark.parametrize("name", ["off-group:1.mp4", "dir:1/a.mp4", "http:/a.mp4", "%d.mp4"])
def test_a_path_may_have_a_colon(
    tmp_path: Path, clip: Frames, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg takes what stands before it for a protocol."""
    monkeypatch.chdir(tmp_path)
    video.write(Path(name), clip, 10, {"weights": "/folder/of/somebody.png"})
    assert (tmp_path / name).is_file()
    assert video.read(Path(name))[0].shape == clip.shape
    assert video.read_record(Path(name)) == {"weights": "/folder/of/somebody.png"}
    cleaned = places.clip_without_folders(Path(name))
    (tmp_path / "cleaned.mp4").write_bytes(cleaned)
    assert video.read_record(tmp_path / "cleaned.mp4") == {"weights": "somebody.png"}


# --- what is in the file --------------------------------------------------------------------------


def test_frames_and_rate_come_back(tmp_path: Path, clip: Frames) -> None:
    video.write(tmp_path / "a.mp4", clip, Fraction(24000, 1001), RECORD)
    frames, rate = video.read(tmp_path / "a.mp4")
    assert rate == Fraction(24000, 1001)
    assert frames.shape == clip.shape
    assert psnr(frames, clip) > 30


def test_saturated_colours_come_back(tmp_path: Path) -> None:
    """Encoded with one matrix and decoded with another, these would be off by 10 and more."""
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 30]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (4, 64, 64, 3))
    video.write(tmp_path / "a.mp4", frames, 12, {})
    back, _ = video.read(tmp_path / "a.mp4")
    assert abs(back[:, 8:-8, 8:-8].astype(int) - frames[:, 8:-8, 8:-8]).max() <= 4


def test_stream_is_what_browsers_play(tmp_path: Path, clip: Frames) -> None:
    path = tmp_path / "a.mp4"
    video.write(path, np.concatenate([clip, clip]), 12, {})
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.color_primaries, context.color_trc, context.colorspace) == (
            1,
            1,
            1,
        )  # BT.709
        assert context.color_range == 1  # limited
        keys = [i for i, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert keys[0] == 0
    assert max(np.diff([*keys, 38])) <= 12
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays before it is all there


# --- the record -----------------------------------------------------------------------------------


@contextmanager
def memory_that_holds(byte: int) -> Iterator[None]:
    """Have glibc fill whatever it gives out, in place of what happened to lie there."""
    m_perturb, libc = -6, ctypes.CDLL(None)  # of malloc.h
    assert libc.mallopt(m_perturb, byte) == 1
    try:
        yield
    finally:
        libc.mallopt(m_perturb, 0)


@contextmanager
def on_one_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def noisy(count: int, height: int, width: int) -> Frames:
    """Moving waves with noise: every block costs bits, and B-frames pay."""
    y, x, t = np.ogrid[:height, :width, :count]
    waves = 128 + 60 * np.sin((x + 3 * t) / 9) + 40 * np.cos((y - 2 * t) / 7)
    noise = np.random.default_rng(0).normal(0, 12, waves.shape)
    grey = (waves + noise).clip(0, 255).astype(np.uint8)
    return np.repeat(grey.transpose(2, 0, 1)[..., None], 3, axis=3)


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc")
@pytest.mark.parametrize("shape", [(9, 66, 50), (9, 64, 64), (9, 40, 72)])
def test_equal_frames_give_equal_bytes(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    """Whatever lies in memory: where there is AVX-512, x264 with its defaults reads what it was not
    given, and three files differ. On other processors it never did."""
    written = set()
    for byte in (1, 85, 170):
        with memory_that_holds(byte):
            video.write(tmp_path / "a.mp4", noisy(*shape), 12, RECORD)
        written.add((tmp_path / "a.mp4").read_bytes())
    assert len(written) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="Linux sets the cores of a process")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_bytes_do_not_depend_on_the_number_of_cores(tmp_path: Path) -> None:
    """A picture of this height was coded in as many slices as there are cores."""
    frames = noisy(3, 256, 64)
    video.write(tmp_path / "all.mp4", frames, 12, RECORD)
    with on_one_core():
        video.write(tmp_path / "one.mp4", frames, 12, RECORD)
    assert (tmp_path / "all.mp4").read_bytes() == (tmp_path / "one.mp4").read_bytes()


def test_record_is_in_the_file_and_beside_it(tmp_path: Path, clip: Frames) -> None:
    path = tmp_path / "a.mp4"
    video.write(path, clip, 12, RECORD)
    assert json.loads((tmp_path / "a.mp4.json").read_text(encoding="utf-8")) == RECORD
    (tmp_path / "a.mp4.json").unlink()
    assert video.read_record(path) == RECORD


def test_record_with_a_picture_of_megabytes(tmp_path: Path, clip: Frames) -> None:
    """Noise of SVD's size does not compress; in base64 it is a third larger again."""
    record = {
        "image": {"png": base64.b64encode(np.random.default_rng(0).bytes(3 * 1024 * 576)).decode()}
    }
    video.write(tmp_path / "a.mp4", clip, 12, record)
    (tmp_path / "a.mp4.json").unlink()
    assert video.read_record(tmp_path / "a.mp4") == record
    assert video.read(tmp_path / "a.mp4")[0].shape == clip.shape


def test_record_comes_from_the_sidecar_if_the_tag_was_stripped(tmp_path: Path) -> None:
    path = plain_video(tmp_path / "a.mp4")
    video.sidecar_path(path).write_text(json.dumps(RECORD), encoding="utf-8")
    assert video.read_record(path) == RECORD


def test_own_tag_wins_over_the_sidecar(tmp_path: Path, clip: Frames) -> None:
    video.write(tmp_path / "a.mp4", clip, 12, RECORD)
    (tmp_path / "a.mp4.json").write_text("{}", encoding="utf-8")
    assert video.read_record(tmp_path / "a.mp4") == RECORD


def test_record_key_is_found_in_upper_case(tmp_path: Path) -> None:
    path = plain_video(tmp_path / "a.mkv", {"skipguide": json.dumps(RECORD)}, "matroska")
    with av.open(str(path)) as container:
        assert "skipguide" not in container.metadata  # matroska returns it as SKIPGUIDE
    assert video.read_record(path) == RECORD


# --- whole or not at all --------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("exists", [True, False])
def test_killed_writing_leaves_what_was_there(
    tmp_path: Path,
    clip: Frames,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    exists: bool,
) -> None:
    path = tmp_path / "a.mp4"
    if exists:
        video.write(path, clip, 12, RECORD)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def half(part: Path, *_: Any) -> None:
        assert part.parent == tmp_path  # a rename across file systems is not atomic
        part.write_bytes(b"half")
        raise error

    monkeypatch.setattr(video, "_encode", half)
    with pytest.raises(error):
        video.write(path, clip, 12, {})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_names_as_long_as_a_folder_allows(tmp_path: Path, clip: Frames) -> None:
    path = tmp_path / ("ü" * 120 + ".mp4")  # 244 bytes, with .json 249 of 255
    video.write(path, clip, 24, {"a": 1})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name, path.name + ".json"]
    assert video.read_record(path) == {"a": 1}


def test_missing_folders_are_made(tmp_path: Path, clip: Frames) -> None:
    video.write(tmp_path / "new" / "folder" / "a.mp4", clip, 12, {})
    assert sorted(file.name for file in (tmp_path / "new" / "folder").iterdir()) == [
        "a.mp4",
        "a.mp4.json",
    ]


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        (
            (2, 33, 32, 3),
            "uint8",
            r"height and width must be even .* but got 33 x 32\. Choose even",
        ),
        ((2, 32, 31, 3), "uint8", r"must be even .* but got 32 x 31"),
        (
            (2, 32, 32, 3),
            "float32",
            r"must be \(F, H, W, 3\) uint8 .* but got \(2, 32, 32, 3\) float32\. Convert",
        ),
        (
            (2, 3, 32, 32),
            "uint8",
            r"must be \(F, H, W, 3\) uint8 .* but got \(2, 3, 32, 32\) uint8",
        ),
        ((0, 32, 32, 3), "uint8", r"F >= 1, but got \(0, 32, 32, 3\)"),
    ],
)
def test_frames_that_cannot_be_written(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        video.write(tmp_path / "a.mp4", np.zeros(shape, dtype), 12, {})
    assert not list(tmp_path.iterdir())


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"a video file is needed, but .*none\.mp4 is not a file\. Check"
    ):
        video.read_record(tmp_path / "none.mp4")


def test_no_video(tmp_path: Path, clip: Frames) -> None:
    (tmp_path / "text.mp4").write_text("this is no video")
    with pytest.raises(
        ValueError, match=r"a video file is needed, but .*text\.mp4 cannot be read as one"
    ):
        video.read_record(tmp_path / "text.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match=r"sound\.mp4 has no video stream\. Check"):
        video.read(tmp_path / "sound.mp4")


def test_no_record(tmp_path: Path) -> None:
    path = plain_video(tmp_path / "a.mp4")
    with pytest.raises(
        ValueError,
        match=r"must carry a skipguide record .* but .*a\.mp4 has neither\. Use a video that",
    ):
        video.read_record(path)


@pytest.mark.parametrize("text", ['{"settings": ', "[1, 2]"])
def test_damaged_record(tmp_path: Path, text: str) -> None:
    path = plain_video(tmp_path / "a.mp4")
    video.sidecar_path(path).write_text(text)
    with pytest.raises(
        ValueError, match=r"a record must be a JSON object, but that of .*a\.mp4\.json starts with"
    ):
        video.read_record(path)


def test_no_frames(tmp_path: Path, clip: Frames) -> None:
    """A download that broke off: the index is whole, the frames are not."""
    video.write(tmp_path / "a.mp4", clip, 12, {})
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: content.index(b"mdat") + 4])
    with pytest.raises(ValueError, match=r"cut\.mp4 (has none\. Use|cannot be read as one)"):
        video.read(tmp_path / "cut.mp4")


CODECS: dict[str, Any] = {"avi": "mpeg4", "mkv": "libx264", "webm": "libvpx"}


def noise_video(path: Path, steps: list[int], into: Any = None) -> bytes:
    """A video that skipguide did not write, whose frames stand for so many twelfths of a second
    each."""
    pixels = np.random.default_rng(0).integers(0, 255, (len(steps), 32, 32, 3)).astype(np.uint8)
    container_format = {"mkv": "matroska"}.get(path.suffix[1:], path.suffix[1:])
    with av.open(into or str(path), "w", format=container_format) as container:
        stream = container.add_stream(
            CODECS[path.suffix[1:]], rate=12, width=32, height=32, pix_fmt="yuv420p"
        )
        stream.codec_context.time_base = Fraction(1, 12)
        stream.codec_context.thread_count = 1  # starting threads takes longer than the work
        for i, frame in enumerate(pixels):
            given = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
            given.pts, given.time_base = sum(steps[:i]), Fraction(1, 12)
            container.mux(stream.encode(given))
        container.mux(stream.encode())
    return b"" if into else path.read_bytes()


@pytest.mark.parametrize("suffix", CODECS)
def test_a_damaged_video_is_not_a_shorter_one(tmp_path: Path, suffix: str) -> None:
    """A download that broke off, and a disk that lost its middle: fewer frames come out, without an
    error of ffmpeg."""
    path = tmp_path / f"a.{suffix}"
    content = noise_video(path, [1] * 14)
    frames, rate = video.read(path)
    assert (len(frames), rate) == (14, 12)
    middle = len(content) // 2
    for damaged in (
        content[: int(len(content) * 0.55)],
        content[:middle] + bytes(3000) + content[middle + 3000 :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"but .*a\.\w+ (is |has |lacks |cannot be read)"):
            video.read(path)


@pytest.mark.parametrize("suffix", CODECS)
def test_a_video_of_varying_rate_is_whole(tmp_path: Path, suffix: str) -> None:
    noise_video(tmp_path / f"a.{suffix}", [4 if i % 4 == 0 else 1 for i in range(13)])
    assert len(video.read(tmp_path / f"a.{suffix}")[0]) == 13


def test_a_video_written_live_has_no_length(tmp_path: Path) -> None:
    """As through a pipe, where the length cannot be put in afterwards."""

    class Pipe(io.RawIOBase):
        content = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.content += bytes(data)
            return len(data)

    pipe, path = Pipe(), tmp_path / "a.mkv"
    noise_video(path, [1] * 12, pipe)
    path.write_bytes(pipe.content)
    with av.open(str(path)) as container:
        assert container.duration is None
    assert len(video.read(path)[0]) == 12


# --- pictures -------------------------------------------------------------------------------------


def test_side_by_side_keeps_every_pixel(clip: Frames) -> None:
    right = clip[:, :, ::-1]
    both = video.place_side_by_side({"CFG 4.5": clip, "CFG 4.5 + STG 1": right})
    assert both.shape == (19, 280, 516, 3)
    assert both.dtype == np.uint8
    below = both[:, 24:]
    assert np.array_equal(below[:, 2::4, 2:256:4], clip)  # each pixel became a square of 4 x 4
    assert np.array_equal(below[:, 1::4, 261::4], right)
    bar = both[0, :24]
    assert len(np.unique(bar[:, :256])) > 2
    assert len(np.unique(bar[:, 260:])) > 2


def test_large_videos_are_not_enlarged() -> None:
    frames = np.zeros((1, 300, 400, 3), np.uint8)
    assert video.place_side_by_side({"a": frames, "b": frames}).shape == (1, 324, 804, 3)


def test_three_side_by_side(clip: Frames) -> None:
    columns = {"one": clip, "two": clip[:, ::-1], "three": clip[:, :, ::-1]}
    out = video.place_side_by_side(columns)
    assert out.shape == (19, 280, 3 * 260 - 4, 3)
    for left, frames in zip((0, 260, 520), columns.values(), strict=True):
        assert np.array_equal(out[:, 25::4, left + 1 : left + 256 : 4], frames)
        assert len(np.unique(out[0, :24, left : left + 256])) > 2
    for gap in (out[:, :, 256:260], out[:, :, 516:520]):
        assert len(np.unique(gap.reshape(-1, 3), axis=0)) == 1


def test_side_by_side_refuses_two_sizes(clip: Frames) -> None:
    with pytest.raises(
        ValueError,
        match=r"must all have the same shape, but got \(19, .* and \(18, .*\)\. Resize or cut",
    ):
        video.place_side_by_side({"a": clip, "b": clip[:-1], "c": clip})


def test_strip_shows_first_and_last_frame_of_every_row(clip: Frames) -> None:
    rows = {"one": clip, "two": clip[:, ::-1]}
    picture = np.asarray(video.make_frame_strip(rows, "a title", columns=4))
    assert picture.shape == (24 + 2 * (24 + 192), 4 * 196 - 4, 3)
    for top, frames in ((48, clip), (264, clip[:, ::-1])):
        assert np.array_equal(picture[top + 1 : top + 192 : 3, 1:192:3], frames[0])
        assert np.array_equal(picture[top + 1 : top + 192 : 3, -191::3], frames[-1])
    for top in (0, 24, 240):
        assert len(np.unique(picture[top : top + 24])) > 2  # a caption


def test_strip_of_fewer_frames_than_columns(clip: Frames) -> None:
    assert video.make_frame_strip({"a": clip[:3]}, "t").width == 3 * 196 - 4


def test_long_captions_are_cut(clip: Frames) -> None:
    """The caption of the left side must not run into the right one."""
    both = video.place_side_by_side({"long words " * 40: clip, "": clip})
    assert len(np.unique(both[0, :24, :252])) > 2
    assert len(np.unique(both[0, :24, 256:].reshape(-1, 3), axis=0)) == 1
