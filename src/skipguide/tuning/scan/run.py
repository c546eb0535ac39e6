"""Scan a model on several prompts: one record for each, kept in a folder, and the map of all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from skipguide.files.atomic import atomic_replace
from skipguide.generate import run
from skipguide.generate.resolve import call_parameters
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import Pipeline, PlainData, ReadOnlyData
from skipguide.tuning.scan.layer_map import LayerMap
from skipguide.tuning.scan.record import ScanOptions, ScanRecord
from skipguide.tuning.scan.trajectory import USUAL, ScanFinished, TrajectoryScan

_KEY_LENGTH = 16
_SUFFIX = ".safetensors"


@dataclasses.dataclass(frozen=True)
class ScanProgress:
    """The progress of a scan, told after each state.

    Args:
        prompt: the number of the prompt under way, from 1.
        prompts: how many there are.
        states: how many states of it are done.
        of: how many it has.
        seconds_left: of the whole scan; None while that is not known.
        kept: its record was there already.
    """

    prompt: int
    prompts: int
    states: int
    of: int
    seconds_left: float | None
    kept: bool = False


OnProgress = Callable[[ScanProgress], None]


@dataclasses.dataclass(frozen=True)
class Subject:
    """One video whose trajectory is scanned.

    Args:
        call: runs the pipeline for it.
        key: what names its record; equal keys mean equal records. "" is never kept.
    """

    call: Callable[[], Any]
    key: str = ""


def scan(
    pipe: Pipeline,
    prompts: Sequence[str | None],
    options: ScanOptions = USUAL,
    *,
    images: Sequence[Any] = (),
    seed: int = 0,
    on_progress: OnProgress | None = None,
    **call: Any,
) -> LayerMap:
    """Scan a pipeline of diffusers, of videos or of images, on its own trajectories.

    Args:
        pipe: an unmodified pipeline of a known family; it is called as `pipe(prompt, ...)`.
        prompts: one call for each; None where the pipeline takes no prompt.
        options: which cells, and where on the trajectory.
        images: one for each prompt, where the pipeline takes one.
        seed: of the first prompt's noise; each further prompt has the next one.
        on_progress: called after each state.
        call: further arguments of the pipeline, such as num_inference_steps and guidance_scale.

    Returns:
        The map: a rank of the cells with its uncertainty, and no verdict.

    Raises:
        ValueError: for no prompts, images that are not one for each, an unknown pipeline, or a
            layer, skip or axis that the family has not.
    """
    if not prompts:
        raise ValueError("a scan needs one prompt or more, but got none. Four are enough.")
    if images and len(images) != len(prompts):
        raise ValueError(
            f"images must be one for each prompt, but got {len(images)} for {len(prompts)}"
            " prompts. Leave some out."
        )

    def calling(number: int, prompt: str | None) -> Callable[[], Any]:
        given: PlainData = {"generator": torch.Generator("cpu").manual_seed(seed + number), **call}
        given |= {} if prompt is None else {"prompt": prompt}
        given |= {"image": images[number]} if images else {}
        if "output_type" in call_parameters(pipe):
            given.setdefault("output_type", "latent")
        return lambda: pipe(**given)

    subjects = [Subject(calling(number, prompt)) for number, prompt in enumerate(prompts)]
    return LayerMap.build(scan_subjects(pipe, subjects, options, None, on_progress))


def subject_of_video(
    pipe: Pipeline,
    complete: GenerationSettings,
    image: Image.Image | None,
    options: ScanOptions,
    weights: ReadOnlyData,
) -> Subject:
    """Return a video to be scanned as `generate.run.generate` makes it.

    Args:
        complete: its settings, without guidance beside CFG.
        image: its first frame, where the settings name one.
        options: of the scan, which are a part of its key.
        weights: the fingerprint of the model's weights.
    """
    content = {
        "weights": dict(weights),
        "settings": complete.model_dump(mode="json", exclude_none=True),
        "image": None if image is None else hashlib.sha256(image.tobytes()).hexdigest(),
        "options": {**options.to_dict(), "max_bytes": None},  # of no consequence for the values
    }
    text = json.dumps(content, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]
    return Subject(lambda: run.generate(pipe, complete, None, image), key)


def scan_subjects(
    pipe: Pipeline,
    subjects: Iterable[Subject],
    options: ScanOptions,
    folder: Path | None,
    on_progress: OnProgress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> list[ScanRecord]:
    """Scan some calls of a pipeline, each once.

    Args:
        folder: where records are kept, a file for each as soon as it is there; one that is there
            is read; one that is damaged is made again. None keeps none.
        on_progress: called after each state, and for each record that was there.
        on_note: called with a sentence for each record that was damaged.

    Raises:
        ValueError: as `TrajectoryScan`.
    """
    listed, found = list(subjects), list[ScanRecord]()
    paths = [_path_of(subject, folder) for subject in listed]
    for text in remove_damaged([path for path in paths if path is not None]):
        if on_note is not None:
            on_note(text)
    clock = _Clock(len(listed), sum(path is None or not path.is_file() for path in paths))
    for number, (subject, path) in enumerate(zip(listed, paths, strict=True), 1):
        tell = clock.teller(number, on_progress)
        if path is not None and path.is_file():
            found.append(ScanRecord.from_bytes(path.read_bytes()))
            states = len(found[-1].states)
            tell(states, states, True)
            continue
        found.append(_scan_once(pipe, subject, options, tell))
        clock.finish_one()
        if path is not None:
            with atomic_replace(path) as (part,):
                part.write_bytes(found[-1].to_bytes())
    return found


def remove_damaged(paths: Iterable[Path]) -> list[str]:
    """Remove the records that cannot be read, and return a sentence for each.

    The rest of a scan makes anew what is not there.
    """
    said = []
    for path in paths:
        try:
            if path.is_file():
                ScanRecord.from_bytes(path.read_bytes())
        except ValueError as error:
            path.unlink()
            said.append(
                f"the record of a scan {path.name} was damaged ({str(error).rstrip('.')}) and is"
                " made again"
            )
    return said


def _path_of(subject: Subject, folder: Path | None) -> Path | None:
    return None if folder is None or not subject.key else folder / f"{subject.key}{_SUFFIX}"


def _scan_once(
    pipe: Pipeline, subject: Subject, options: ScanOptions, tell: Callable[[int, int], None]
) -> ScanRecord:
    with TrajectoryScan(pipe, options, tell, ends_call=True) as scan_of_call:
        try:
            subject.call()
        except ScanFinished:
            free_hooks = getattr(pipe, "maybe_free_model_hooks", None)
            if free_hooks is not None:  # as the call would have done at its end
                free_hooks()
    return scan_of_call.record()


class _Clock:
    """Estimates what is left from what the states so far have taken."""

    def __init__(self, prompts: int, left: int):
        self.prompts, self.left, self.finished = prompts, left, 0
        self.began = time.perf_counter()

    def finish_one(self) -> None:
        """Note that a prompt is scanned."""
        self.finished += 1

    def teller(self, number: int, on_progress: OnProgress | None) -> Callable[..., None]:
        """Return a function of (states, of, kept) that tells of a prompt."""

        def tell(states: int, of: int, kept: bool = False) -> None:
            if on_progress is None:
                return
            done = self.finished + (0 if kept else states / of)
            spent = time.perf_counter() - self.began
            seconds = spent * (self.left - done) / done if done else None
            on_progress(ScanProgress(number, self.prompts, states, of, seconds, kept))

        return tell
