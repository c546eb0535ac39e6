"""Reading frames: what a player would show, and what has lost a part."""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import av.filter
import numpy as np
import pytest
from av.stream import Disposition

from skipguide.files import video
from skipguide.files.frames import Crop, VideoFile
from support.containers import KINDS, Frames, copy, encode, insert_box, noise, turn

# --- turned, mirrored, cropped --------------------------------------------------------------------

TURNS = [turn for turn in itertools.product((-1, 0, 1), repeat=4)
    if abs(turn[0] * turn[3] - turn[1] * turn[2]) == 1 and sum(map(abs, turn)) == 2]  # fmt: skip


def corners(count: int = 3, height: int = 32, width: int = 48) -> Frames:
    """Frames whose four corners have four colours, so that no turn looks like another."""
    frames = np.full((count, height, width, 3), 128, np.uint8)
    frames[:, :16, :16], frames[:, :16, -16:] = (250, 10, 10), (10, 250, 10)
    frames[:, -16:, :16] = (10, 10, 250)
    return frames


def shown(frames: Frames, matrix: tuple[int, int, int, int]) -> Frames:
    """Where ISO 14496-12, 6.2.2 puts each pixel: (p, q) to (a p + c q, b p + d q), from 0 on."""
    a, b, c, d = matrix
    height, width = frames.shape[1:3]
    places = {(a * p + c * q, b * p + d * q): (q, p) for q in range(height) for p in range(width)}
    left, top = min(x for x, _ in places), min(y for _, y in places)
    size = (height, width) if a else (width, height)
    out = np.zeros((len(frames), *size, 3), np.uint8)
    for (x, y), (q, p) in places.items():
        out[:, y - top, x - left] = frames[:, q, p]
    return out


@pytest.mark.parametrize("matrix", TURNS, ids=str)
def test_a_video_is_turned_as_its_container_says(
    tmp_path: Path, matrix: tuple[int, int, int, int]
) -> None:
    path = encode(tmp_path / "a.mp4", corners())
    upright, _ = video.read(path)
    turned, _ = video.read(turn(path, matrix))
    assert np.array_equal(turned, shown(upright, matrix))
    file = VideoFile.open(path)
    assert (file.height, file.width, file.notes) == (*turned.shape[1:3], ())


@pytest.mark.parametrize(
    ("matrix", "filters"),
    [
        ((0, 1, -1, 0), [("transpose", "clock")]),
        ((-1, 0, 0, -1), [("hflip", None), ("vflip", None)]),
        ((0, -1, 1, 0), [("transpose", "cclock")]),
    ],
)
def test_turned_as_by_ffmpeg(
    tmp_path: Path, matrix: tuple[int, int, int, int], filters: list[tuple[str, str | None]]
) -> None:
    """The filters that ffmpeg's own program puts in for these matrices (ffmpeg_filter.c)."""
    path = turn(encode(tmp_path / "a.mp4", corners(1)), matrix)
    with av.open(str(path)) as container:
        given = next(container.decode(video=0)).reformat(format="rgb24")
    graph = av.filter.Graph()
    kind = av.VideoFormat("rgb24")
    buffer = graph.add_buffer(
        width=given.width, height=given.height, format=kind, time_base=Fraction(1, 12)
    )
    nodes = [buffer, *(graph.add(*one) for one in filters), graph.add("buffersink")]
    graph.link_nodes(*nodes).configure()
    graph.push(given)
    assert np.array_equal(video.read(path)[0][0], graph.pull().to_ndarray())


def test_an_angle_that_is_no_quarter_turn_is_told(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", corners())
    upright, _ = video.read(path)
    (note,) = VideoFile.open(turn(path, (1, 1, -1, 1))).notes
    assert "turned by 45 degrees" in note
    assert np.array_equal(video.read(path)[0], upright)


def test_an_mp4_is_cropped_as_it_says(tmp_path: Path) -> None:
    """A clean aperture (ISO 14496-12, 12.1.4): 40 x 24 pixels, 2 right of the middle.

    It is cropped first and turned then.
    """
    path = encode(tmp_path / "a.mp4", corners())
    whole, _ = video.read(path)
    box = struct.pack(">I4s4I2iII", 40, b"clap", 40, 1, 24, 1, 2, 1, 0, 1)
    parents = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1")
    cropped, _ = video.read(insert_box(path, parents, box))
    assert np.array_equal(cropped, whole[:, 4:28, 6:46])
    turned, _ = video.read(turn(path, (0, 1, -1, 0)))
    assert np.array_equal(turned, shown(whole[:, 4:28, 6:46], (0, 1, -1, 0)))


@pytest.mark.parametrize(
    ("element", "crop"),
    [
        (b"\x54\xaa", Crop(bottom=6)),
        (b"\x54\xbb", Crop(top=6)),
        (b"\x54\xcc", Crop(left=6)),
        (b"\x54\xdd", Crop(right=6)),
    ],
)
def test_a_matroska_file_is_cropped_as_it_says(tmp_path: Path, element: bytes, crop: Crop) -> None:
    """PixelCropBottom, Top, Left and Right (RFC 9559), in the place of DisplayUnit."""
    path = encode(tmp_path / "a.mkv", corners())
    whole, _ = video.read(path)
    content = path.read_bytes()
    assert content.count(b"\x54\xb2\x81\x04") == 1
    path.write_bytes(content.replace(b"\x54\xb2\x81\x04", element + b"\x81\x06"))
    assert VideoFile.open(path).view.crop == crop
    rows, columns = (crop.top, 32 - crop.bottom), (crop.left, 48 - crop.right)
    assert np.array_equal(video.read(path)[0], whole[:, slice(*rows), slice(*columns)])


def test_pixels_that_are_not_square_are_told(tmp_path: Path) -> None:
    def wide(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)

    (note,) = VideoFile.open(encode(tmp_path / "a.mp4", corners(), change=wide)).notes
    assert note.startswith("its pixels are 64:45 and not square: players stretch it")


def test_hdr_and_interlaced_are_told(tmp_path: Path) -> None:
    def hdr(stream: av.VideoStream) -> None:
        stream.codec_context.color_trc = 16

    (note,) = VideoFile.open(encode(tmp_path / "a.mp4", corners(), change=hdr)).notes
    assert "HDR (PQ)" in note

    def wide(stream: av.VideoStream) -> None:
        stream.codec_context.color_primaries = 9

    (note,) = VideoFile.open(encode(tmp_path / "c.mp4", corners(), change=wide)).notes
    assert "wider than those of screens (BT.2020)" in note
    path = encode(tmp_path / "b.mp4", corners(), options={"x264-params": "interlaced=1"})
    assert any("interlaced" in note for note in VideoFile.open(path).notes)


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    """As in a browser, and as in images. What lies below them is a colour that nobody sees."""
    from PIL import Image

    pictures = [Image.new("RGBA", (32, 32), (255, 0, 0, 0)) for _ in range(3)]
    for i, picture in enumerate(pictures):
        picture.paste((0, 0, 255, 255), (i, 0, i + 8, 8))
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], disposal=2, duration=100
    )
    frames, rate = video.read(tmp_path / "a.gif")
    assert (len(frames), rate) == (3, 10)
    assert (frames[1, 20:] == 255).all()
    assert frames[1, 4, 4].tolist() == [0, 0, 255]


# --- whole files, however odd ---------------------------------------------------------------------

OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0", "g": "12"}
KEEP = {"avoid_negative_ts": "disabled"}


def _late(path: Path) -> Path:
    return encode(path, noise(24), starts=list(range(9, 33)), muxer=KEEP)


def _pause(path: Path) -> Path:
    """Twelve frames, three seconds of nothing, twelve frames."""
    return encode(path, noise(24), starts=[i + 36 * (i >= 12) for i in range(24)])


def _copied(path: Path) -> Path:
    """Cut at a key frame before which others are shown, of which some are not in the file."""
    whole = encode(path.with_name("whole.mp4"), noise(36), options=OPEN_GOP)
    return copy(whole, path, 12)


def _copied_between(path: Path) -> Path:
    """Cut where no key frame is."""
    whole = encode(path.with_name("whole.mp4"), noise(36), options=OPEN_GOP)
    return copy(whole, path, 5)


def _negative(path: Path) -> Path:
    return encode(path, noise(24), starts=list(range(-4, 20)), muxer=KEEP)


def _long_sound(path: Path) -> Path:
    return encode(path, noise(24), sound=4)


def _one(path: Path) -> Path:
    return encode(path, noise(1))


def _held(path: Path) -> Path:
    """The last frame stands still; only the length of the file tells how long."""
    path = encode(path, noise(24))
    content = bytearray(path.read_bytes())
    if path.suffix == ".mkv":
        content = content.replace(b"00:00:02.000000000", b"00:00:05.000000000")
        place = content.index(b"\x44\x89\x88") + 3  # Duration, as float64 in milliseconds
        content[place : place + 8] = struct.pack(">d", 5000.0)
    path.write_bytes(content)
    return path


def _stale(path: Path) -> Path:
    """A tag with the length of what the file was cut from."""
    path = encode(path, noise(24))
    path.write_bytes(path.read_bytes().replace(b"00:00:02.000000000", b"00:00:09.000000000"))
    return path


def _cover(path: Path) -> Path:
    """A picture as the first video stream, as players of music and shops write it."""
    with av.open(str(path), "w", format=KINDS[path.suffix[1:]][0]) as container:
        cover = container.add_stream("png", rate=1)
        cover.height, cover.width, cover.pix_fmt = 16, 16, "rgb24"
        cover.disposition = Disposition.attached_pic
        stream = container.add_stream("libx264", rate=12)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(noise(1, 16, 16)[0], "rgb24")))
        container.mux(cover.encode())
        for pixels in noise(24):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return path


def _joined(path: Path) -> Path:
    """Two videos, one after the other, as `cat` joins them."""
    path.write_bytes(encode(path, noise(12)).read_bytes() * 2)
    return path


def _begun(path: Path) -> Path:
    """A broadcast that somebody began to record between two key frames."""
    content = encode(path, noise(36)).read_bytes()
    path.write_bytes(content[len(content) // 3 // 188 * 188 :])
    return path


def _fragments(path: Path) -> Path:
    return encode(path, noise(24), muxer={"movflags": "frag_keyframe+empty_moov"})


ODD: list[tuple[Callable[[Path], Path], str, int]] = [
    *((_late, suffix, 24) for suffix in KINDS),
    *((_pause, suffix, 24) for suffix in KINDS),
    *((_one, suffix, 1) for suffix in KINDS ),
    *((_long_sound, suffix, 24) for suffix in ("mp4", "mov", "mkv", "ts", "flv")),
    *((_negative, suffix, 24) for suffix in ("mkv", "webm", "ts")),
    *((_copied, suffix, 24) for suffix in ("mkv", "mp4")),
    *((_copied_between, suffix, 24) for suffix in ("mkv", "mp4")),
    (_joined, "ts", 24), (_joined, "mpg", 24), (_begun, "ts", 21), (_fragments, "mp4", 24),
    (_held, "mkv", 24), (_stale, "mkv", 24), (_cover, "mp4", 24),
]  # fmt: skip


def _played(container: Any, stream: Any) -> Iterator[Any]:
    """What FFmpeg decodes; players pass over what cannot be decoded before the first key frame."""
    for packet in container.demux(stream):
        with contextlib.suppress(av.error.InvalidDataError):
            yield from packet.decode()


@pytest.mark.parametrize(
    ("make", "suffix", "count"), ODD, ids=lambda one: getattr(one, "__name__", str(one))
)
def test_what_plays_to_its_end_is_read(
    tmp_path: Path, make: Callable[[Path], Path], suffix: str, count: int
) -> None:
    path = make(tmp_path / f"a.{suffix}")
    frames, rate = video.read(path)
    with av.open(str(path)) as container:
        stream = next(one for one in container.streams.video if one.codec.name != "png")
        played = sum(1 for _ in _played(container, stream))
    assert len(frames) == played  # what a player shows
    assert frames.shape[1:] == (48, 64, 3)
    if make not in (_copied, _copied_between):
        assert played == count
    assert rate > 0


# --- files that have lost a part ------------------------------------------------------------------


def cut(content: bytes) -> bytes:
    """A download that broke off."""
    return content[: int(len(content) * 0.55)]


def zeroed(content: bytes) -> bytes:
    """A disk that lost its middle."""
    middle = len(content) // 2
    return content[:middle] + bytes(3000) + content[middle + 3000 :]


def removed(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + content[middle + 3000 :]


@pytest.mark.parametrize(
    ("damage", "suffix"),
    [
        (damage, suffix)
        for damage in (cut, zeroed, removed)
        for suffix in KINDS
        # Nothing in an Ogg file tells how long it was.
        if (damage, suffix) != (cut, "ogv")
    ],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
def test_what_has_lost_a_part_is_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes], suffix: str
) -> None:
    """Also where a late start would hide the missing end."""
    make = _late if suffix in ("mkv", "webm", "ts") else lambda path: encode(path, noise(24))
    path = make(tmp_path / f"a.{suffix}")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"but .*a\.\w+ (is |has |lacks |cannot be read)"):
        video.read(path)


@pytest.mark.parametrize("last", [3, 4], ids=["cut", "removed"])
def test_whole_clusters_of_a_matroska_file_are_missing(tmp_path: Path, last: int) -> None:
    """Every byte that is left is right."""
    path = encode(tmp_path / "a.mkv", noise(48), muxer={"cluster_time_limit": "800"})
    first, *clusters = path.read_bytes().split(b"\x1f\x43\xb6\x75")
    kept = clusters[:2] if last == 3 else clusters[:2] + clusters[3:]
    path.write_bytes(b"\x1f\x43\xb6\x75".join([first, *kept]))
    with pytest.raises(ValueError, match=r"must be complete, but .*a\.mkv (has|lacks)"):
        video.read(path)


def test_frames_of_two_sizes_are_refused(tmp_path: Path) -> None:
    small, large = encode(tmp_path / "s.ts", noise(6)), encode(tmp_path / "l.ts", noise(6, 64, 96))
    path = tmp_path / "a.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(
        ValueError, match=r"one size, but .* has 64 x 48 and, from frame 6 on, 96 x"
    ):
        video.read(path)


def test_a_song_with_a_cover_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("png", rate=1)
        cover.height, cover.width, cover.pix_fmt = 16, 16, "rgb24"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(noise(1, 16, 16)[0], "rgb24")))
        container.mux(cover.encode())
    with pytest.raises(ValueError, match="has a cover picture and no video stream"):
        video.read(path)
