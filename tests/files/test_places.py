"""Text and videos without the folders of a machine."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from skipguide.files import places, video

HOME = PurePosixPath("/", "home", "ann")  # of nobody here


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"{HOME}/models/wan", "wan"),
        (f"{HOME}/my models/wan 2.1", "wan 2.1"),
        ("/wan", "wan"),
        ("~/wan", "wan"),
        ("~ann/x/wan", "wan"),
        (f"file://{HOME}/x.png", "x.png"),
        (r"C:\Users\Ann Lee\wan", "wan"),
        ("D:/models/wan", "wan"),
        (r"\\server\share\x.png", "x.png"),
        (f"{HOME}/lora.safetensors:0.8", "lora.safetensors:0.8"),
        ("OSError: no such file: '/data/x/y.png'.", "OSError: no such file: 'y.png'."),
        ("image:/data/ann/x.png, lora:/data/b.safetensors", "image:x.png, lora:b.safetensors"),
        ("read from file:///data/ann/x.png", "read from x.png"),
        (f"image:{HOME}/x.png # of /mnt/disk/pictures", "image:x.png # of pictures"),
        (r'File "C:\work\a.py", line 3', 'File "a.py", line 3'),
        # what is no path
        ("org/model", "org/model"),
        ("models/wan", "models/wan"),
        ("a cat and/or a dog, 4/5 of it / all", "a cat and/or a dog, 4/5 of it / all"),
        ("see https://example.org/a/b.html", "see https://example.org/a/b.html"),
        ("s = 1/2, 3//4", "s = 1/2, 3//4"),
        ("", ""),
    ],
)
def test_only_the_last_part_of_a_path_is_left(text: str, left: str) -> None:
    assert places.without_folders(text) == left


def test_what_people_have_said_stays() -> None:
    said = {"prompt": f"the road {HOME}/x", "settings": [{"model": f"{HOME}/x", "steps": 3}]}
    assert places.data_without_folders(said) == {
        "prompt": f"the road {HOME}/x",
        "settings": [{"model": "x", "steps": 3}],
    }


def test_a_video_keeps_its_frames_and_loses_its_folders(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (13, 32, 48, 3), np.uint8)
    record = {"settings": {"model": f"{HOME}/wan", "prompt": "a star"}, "run": {"key": "k"}}
    video.write(tmp_path / "x.mp4", frames, 25, record)
    content = places.clip_without_folders(tmp_path / "x.mp4")
    assert b"ann" not in content
    (tmp_path / "y.mp4").write_bytes(content)
    cleaned = video.read_record(tmp_path / "y.mp4")
    assert cleaned == {"settings": {"model": "wan", "prompt": "a star"}, "run": {"key": "k"}}
    (before, fps), (after, same) = video.read(tmp_path / "x.mp4"), video.read(tmp_path / "y.mp4")
    assert np.array_equal(before, after)
    assert fps == same
    assert places.clip_without_folders(tmp_path / "x.mp4") == content
    assert places.clip_without_folders(tmp_path / "y.mp4") == content  # nothing to do
