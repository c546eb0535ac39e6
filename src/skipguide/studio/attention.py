"""Attention checks of a study: tasks whose answer is known.

A pair is a clip beside itself, of which a tie is expected, or beside a strongly damaged copy of it,
which must not win. Of ratings the damaged copy alone is shown, whose quality must not be rated
above 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from skipguide.files import clips, picture, sound, video
from skipguide.runs import Clip, Run
from skipguide.runs.study import COPIES, Check, CheckAnswer, CheckKind, Kind, Study
from skipguide.studio import files

_BLOCKS, _NOISE = 12, 60.0  # squares along the longer side; deviation in grey values
_WORST_QUALITIES = ("1", "2")
_QUALITIES = ("video quality", "picture quality")


def choose_checks(clips: Sequence[Clip], kind: Kind, count: int) -> tuple[Check, ...]:
    """Return attention checks on clips of as many prompts as can be, the same for the same clips.

    Of pairs every other one is a damaged copy, the first of them one.
    """
    order = sorted(clips, key=lambda clip: _digest("choose", clip.key))
    seen: dict[int, int] = {}
    rank = {}
    for clip in order:
        rank[clip.key] = seen[clip.prompt] = seen.get(clip.prompt, -1) + 1
    order.sort(key=lambda clip: rank[clip.key])
    kinds: list[CheckKind] = ["damaged", "same"] if kind == "pair" else ["damaged"]
    found = []
    for number in range(count):
        clip, how = order[number % len(order)], kinds[number % len(kinds)]
        found.append(Check(_digest("check", str(number), how, clip.key), how, clip.key))
    return tuple(found)


def prepare(run: Run, study: Study) -> None:
    """Make the damaged copies that are missing, in the run's folder.

    Raises:
        OSError: if they cannot be written.
        ValueError: if a video cannot be read.
    """
    for check in study.checks:
        path = damaged_path(run, check)
        if check.kind == "damaged" and not path.is_file():
            clip = run.clip(check.clip)
            if clip.video is None:
                raise ValueError(f"the clip {check.clip} of an attention check must be done.")
            frames, fps = clips.read(clip.video)
            path.parent.mkdir(exist_ok=True)
            with video.atomic_replace(path) as (part,):
                _write_copy(part, clip.video, damage(frames), fps)


def _write_copy(part: Path, source: Path, frames: video.Frames, fps: Fraction | None) -> None:
    """Write a copy of a clip under a temporary name, with its sound and without a record."""
    if fps is None:
        part.write_bytes(picture.encode(frames, source.suffix, None))
        return
    heard = sound.read(source)
    video.write(part, frames, fps, {}, () if heard is None else (heard,))


def damaged_path(run: Run, check: Check) -> Path:
    """Return where the damaged copy of a check lies."""
    clip = run.clip(check.clip)
    suffix = clips.VIDEO if clip.video is None else clip.video.suffix
    return run.folder / COPIES / f"{check.name}{suffix}"


def find_video(run: Run, check: Check, place: int) -> Path | None:
    """Return a video of a check: 0 is the clip, 1 what is beside it, or in its place in a rating.

    None if it is not there, or no plain file in the run.
    """
    try:
        if check.kind == "damaged" and place == 1:
            return files.plain_file(damaged_path(run, check), run.folder)
        return files.find_video(run, check.clip)
    except ValueError:
        return None


def damage(frames: video.Frames) -> video.Frames:
    """Return a copy of frames `(F, H, W, 3)` that nobody takes for the better one: coarse squares
    under noise."""
    height, width = frames.shape[1:3]
    size = max(-(-max(height, width) // _BLOCKS), 2)
    random = np.random.default_rng(0)
    found = np.empty_like(frames)
    for i, frame in enumerate(frames):
        coarse = frame[size // 2 :: size, size // 2 :: size] if min(height, width) > size else frame
        large = coarse.repeat(size, 0).repeat(size, 1)
        rows = np.minimum(np.arange(height), large.shape[0] - 1)
        columns = np.minimum(np.arange(width), large.shape[1] - 1)
        noise = random.normal(0, _NOISE, frame.shape)
        found[i] = np.clip(large[rows][:, columns] + noise, 0, 255).astype(np.uint8)
    return found


def judge(
    study: Study, check: Check, rater: str, answers: Mapping[str, str], seconds: float | None
) -> CheckAnswer:
    """Return an answer to a check with whether it is as expected.

    Args:
        answers: to the questions of the kind; of a pair "first" is the clip itself.
    """
    if study.kind == "rating":
        answer = next(answers[name] for name in _QUALITIES if name in answers)
        passed = answer in _WORST_QUALITIES
    else:
        (answer,) = answers.values()
        passed = answer == {"same": "tie", "damaged": "first"}[check.kind]
    return CheckAnswer(study.id, rater, check.name, check.kind, check.clip, answer, passed, seconds)


def _digest(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
