"""Strips in the report: frames of the winner and of CFG alone, on the same prompts and noise."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from skipguide.files import clips as clip_files
from skipguide.method.protocols import PlainData
from skipguide.runs import Clip, Run
from skipguide.tuning.answer.verdicts import NOT_MEASURED
from skipguide.tuning.race.state import BASELINE
from skipguide.tuning.report.html import Child, Markup, el

PROMPTS, FRAMES = 3, 5  # that are shown
_LARGEST, _SMALLEST, _QUALITY = 260, 96, 82  # pixels of the longer side of a frame; of the JPEG


def strips(run: Run, found: PlainData) -> Child:
    """Return the strips, with the rule by which they were chosen; None where nothing can be shown.

    Args:
        found: what `shown.read` says of the run.
    """
    names = choose_settings(found)
    chosen = list(_choose_clips(run, names, found))
    if not chosen:
        return None
    wanted = (found["race"] or {}).get("prompts", {}).get("held_back") or []
    kept = all(clips[0].prompt in wanted for clips in chosen)
    which = "the first prompts that chose nothing" if kept else "the first prompts of the race"
    texts = {prompt.id: prompt.text or prompt.image or "" for prompt in run.prompts()}
    rule = (
        f"Not chosen by hand: {which} on which all of these were sampled, with their first seed,"
        f" and {FRAMES} frames from the first to the last."
    )
    figures = [_figure(clips, names, texts[clips[0].prompt]) for clips in chosen]
    return [el("p", rule), figures]


def choose_settings(found: PlainData) -> list[str]:
    """Return CFG alone, and the settings that are shown with it.

    That is the winner; where that is CFG alone, the best of the others; and where nothing was
    measured, the shortlist.
    """
    race, answer = found["race"] or {}, found["answer"] or {}
    rows = race.get("candidates") or []
    base = [one["name"] for one in rows if one["role"] == BASELINE]
    others = [one for one in rows if one["role"] in ("scan", "preset", "search")]
    if answer.get("verdict") == NOT_MEASURED:
        return [*base, *(one["name"] for one in others[:3])]
    known = [one for one in others if one.get("value") is not None]
    best = sorted(known, key=lambda one: -one["value"]) or others
    winner = answer.get("winner") or answer.get("use")
    shown = [winner] if winner and winner not in base else [one["name"] for one in best[:1]]
    return [*base, *shown]


def _choose_clips(run: Run, names: Sequence[str], found: PlainData) -> Iterator[list[Clip]]:
    """Yield the clips of the settings on each prompt that is shown."""
    ids = {setting.name: setting.id for setting in run.settings()}
    if len(names) < 2 or not set(names) <= set(ids):
        return
    clips: dict[tuple[int, int], dict[int, Clip]] = {}
    for clip in run.clips("done"):
        clips.setdefault((clip.prompt, clip.seed), {})[clip.setting] = clip
    prompts = (found["race"] or {}).get("prompts") or {}
    order = [*(prompts.get("held_back") or []), *(prompts.get("race") or [])]
    count = 0
    for prompt in order:
        cells = sorted((cell for cell in clips if cell[0] == prompt), key=lambda cell: cell[1])
        whole = [clips[cell] for cell in cells if {ids[name] for name in names} <= set(clips[cell])]
        if whole and count < PROMPTS:
            count += 1
            yield [whole[0][ids[name]] for name in names]


def _figure(clips: Sequence[Clip], names: Sequence[str], text: str) -> Markup:
    rows = [
        el("div", el("span", name), _strip(clip, f"{name}: {text}"), class_="strip")
        for name, clip in zip(names, clips, strict=True)
    ]
    return el("figure", el("figcaption", text, el("small", f" seed {clips[0].seed}")), rows)


def _strip(clip: Clip, said: str) -> Markup:
    """Return frames of a clip beside each other as one picture; words where it cannot be read."""
    try:
        assert clip.video is not None
        frames, _ = clip_files.read(clip.video)
    except (ValueError, OSError) as error:
        return el("p", f"The video cannot be read: {error}")
    places = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
    picture = Image.fromarray(np.concatenate(list(frames[places]), 1))
    height, width = frames.shape[1:3]
    size = min(_LARGEST, max(_SMALLEST, max(height, width)))
    factor = size / max(height, width)
    shape = round(width * factor) * len(places), round(height * factor)
    content = io.BytesIO()
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    picture.resize(shape, how).save(content, "JPEG", quality=_QUALITY)
    data = base64.b64encode(content.getvalue()).decode()
    return el(
        "img", src=f"data:image/jpeg;base64,{data}", alt=said, width=shape[0], height=shape[1]
    )
