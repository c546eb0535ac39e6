"""The sound of a video file: the same samples come back, at the time of their frames."""

from __future__ import annotations

import itertools
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from skipguide.files import sound, video
from skipguide.files.sound import Sound
from support.beeps import BEEP, beeps, flashes

RATE, FPS = 24000, Fraction(25)


def noise(channels: int, count: int, seed: int = 0) -> Sound:
    drawn = np.random.default_rng(seed).integers(-(2**15), 2**15, (channels, count))
    return Sound(drawn.astype(np.int16), RATE)


def pitch(samples: np.ndarray, rate: int) -> float:
    """The strongest frequency."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()])


@pytest.mark.parametrize(("channels", "rate"), [(2, 24000), (1, 16000), (2, 48000)])
def test_the_samples_come_back_to_the_bit(tmp_path: Path, channels: int, rate: int) -> None:
    made = Sound(noise(channels, 2 * rate + 1).samples, rate)
    video.write(tmp_path / "a.mp4", flashes([0.5], 50, FPS), FPS, {}, [made])
    found = sound.read(tmp_path / "a.mp4")
    assert found is not None
    assert (found.rate, found.sha256) == (rate, made.sha256)
    assert found.samples.tobytes() == made.samples.tobytes()
    frames, fps = video.read(tmp_path / "a.mp4")
    assert (len(frames), fps) == (50, FPS)


def test_a_sine_is_heard_when_its_frame_flashes(tmp_path: Path) -> None:
    """Three beeps of 440, 880 and 1320 Hz, each with a white frame."""
    times, pitches = [0.2, 0.88, 1.52], [440.0, 880.0, 1320.0]
    heard = beeps(times, 2.0, RATE, pitches)
    video.write(tmp_path / "a.mp4", flashes(times, 50, FPS), FPS, {}, [heard])
    frames, fps = video.read(tmp_path / "a.mp4")
    found = sound.read(tmp_path / "a.mp4")
    assert found is not None
    white = np.flatnonzero(frames.mean((1, 2, 3)) > 128)
    assert [float(i) / float(fps) for i in white] == pytest.approx(times)
    for time, wanted in zip(times, pitches, strict=True):
        begin = round(time * RATE)
        own = found.samples[0, begin : begin + RATE // 10].astype(float)
        assert pitch(own, RATE) == pytest.approx(wanted, abs=10)  # 0.1 s tell 10 Hz apart
        assert not found.samples[0, begin - 1200 : begin].any()


def test_tracks_side_by_side(tmp_path: Path) -> None:
    """Each has its own sound; the first is the one that players play."""
    made = [noise(2, 24000, seed) for seed in (1, 2)]
    titled = [
        Sound(one.samples, RATE, title) for one, title in zip(made, ("CFG", "STG"), strict=True)
    ]
    video.write(tmp_path / "a.mp4", flashes([], 25, FPS), FPS, {}, titled)
    for track, one in enumerate(made):
        found = sound.read(tmp_path / "a.mp4", track)
        assert found is not None
        assert found.sha256 == one.sha256
    assert sound.read(tmp_path / "a.mp4", 2) is None
    with av.open(str(tmp_path / "a.mp4")) as container:
        tracks: Any = container.streams.audio
        assert [bool(one.disposition & Disposition.default) for one in tracks] == [
            True, False,
        ]  # fmt: skip
        assert [one.metadata["handler_name"] for one in tracks] == ["CFG", "STG"]


def test_equal_sounds_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        video.write(tmp_path / f"{name}.mp4", flashes([0.2], 25, FPS), FPS, {}, [noise(2, RATE)])
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_sound_lies_beside_the_frames_of_its_time(tmp_path: Path) -> None:
    """So that a browser need not read all of a file to play its first second."""
    video.write(tmp_path / "a.mp4", flashes([], 300, FPS), FPS, {}, [noise(2, 12 * RATE)])
    with av.open(str(tmp_path / "a.mp4")) as container:
        times = [float(p.dts * p.time_base) for p in container.demux() if p.dts is not None]
    assert max(before - after for before, after in itertools.pairwise(times)) < 1.0


def test_no_sound(tmp_path: Path) -> None:
    video.write(tmp_path / "a.mp4", flashes([], 5, FPS), FPS, {})
    assert sound.read(tmp_path / "a.mp4") is None


def test_whether_there_is_a_sound_is_read_from_the_index(tmp_path: Path) -> None:
    """Also behind a record of megabytes; what cannot be read has none."""
    frames = flashes([], 5, FPS)
    video.write(tmp_path / "a.mp4", frames, FPS, {"image": "x" * 2_000_000}, [noise(1, RATE)])
    video.write(tmp_path / "b.mp4", frames, FPS, {"image": "soun" * 1000})
    (tmp_path / "c.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:40])
    (tmp_path / "d.mp4").write_bytes(b"no mp4 at all")
    os.mkfifo(tmp_path / "e.mp4")
    found = {name: sound.has_sound(tmp_path / f"{name}.mp4") for name in "abcdef"}
    assert found == {"a": True, "b": False, "c": False, "d": False, "e": False, "f": False}


def test_sound_of_others_that_begins_late(tmp_path: Path) -> None:
    """AAC, from half a second on: there is silence before, and the beep is where it was."""
    heard = beeps([0.4], 1.0, RATE, [1000.0])
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        picture = container.add_stream("libx264", rate=FPS, width=32, height=32, pix_fmt="yuv420p")
        track: Any = container.add_stream("aac", rate=RATE, layout="mono")
        for _ in range(50):
            drawn = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(picture.encode(drawn))
        container.mux(picture.encode())
        frame = av.AudioFrame.from_ndarray(heard.samples[:1], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, RATE // 2, Fraction(1, RATE)
        container.mux(track.encode(frame))
        container.mux(track.encode())
    found = sound.read(tmp_path / "a.mp4")
    assert found is not None
    loud = np.flatnonzero(np.abs(found.samples[0].astype(int)) > 3000)
    assert loud[0] / RATE == pytest.approx(0.9, abs=0.005)


@pytest.mark.parametrize("rate", [16000, 22050, 48000])
def test_another_rate_keeps_pitch_and_time(rate: int) -> None:
    heard = beeps([0.5], 1.0, RATE, [1000.0]).mono(rate)
    assert len(heard) == rate
    begin = round(0.5 * rate)
    assert pitch(heard[begin : begin + rate // 10], rate) == pytest.approx(1000, abs=10)
    # A sine's phase says where a sample is to less than a sample.
    times = np.arange(begin + rate // 100, begin + rate // 12) / rate
    wanted = np.sin(2 * np.pi * 1000 * (times - 0.5)) * (1 - (times - 0.5) / BEEP) / 2
    assert np.abs(heard[begin + rate // 100 : begin + rate // 12] - wanted).max() < 0.01


def test_floats_of_a_pipeline() -> None:
    made = Sound.from_floats(np.asarray([0.0, 0.5, -1.0, 1.5]), RATE)
    assert made.samples.tolist() == [[0, 16384, -32767, 32767]]
    assert made.seconds == 4 / RATE


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros((3, 5), np.int16), RATE, r"^sound must be .* but got \(3, 5\) int16\. Convert"),
        (np.zeros((2, 5)), RATE, r"^sound must be .* but got \(2, 5\) float64\. Convert"),
        (np.zeros((2, 0), np.int16), RATE, r"^sound must be .* N >= 1, but got \(2, 0\) int16"),
        (np.zeros((2, 5), np.int16), 0, r"^the sampling rate .* but got 0\. Take that of"),
    ],
    ids=["channels", "floats", "empty", "rate"],
)
def test_what_is_no_sound(samples: Any, rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sound(samples, rate)


def test_sound_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match=r"^sound must be finite, .* NaN samples\. Use another"):
        Sound.from_floats(np.asarray([[0.0, np.nan]]), RATE)
