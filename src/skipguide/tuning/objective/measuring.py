"""Measure the clips of a run one by one, and keep what was read before the next one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from skipguide.files.atomic import atomic_replace
from skipguide.files.text import dump_json
from skipguide.metrics.extract import Reader
from skipguide.metrics.features import GENERATED, REFERENCE, Readings
from skipguide.metrics.inputs import Source, file_source, find_videos
from skipguide.metrics.selection import Options
from skipguide.runs import Clip, Run
from skipguide.tuning.names import FOLDER
from skipguide.tuning.objective.functions import UserMetric, describe_failure
from skipguide.tuning.objective.parts import FEWEST_REFERENCE, Part, requests_of
from skipguide.tuning.objective.scores import Floats

Features = Mapping[str, Floats]  # key of a clip -> (D,)
ALL = "all"  # metrics of a clip that cannot be read
_MOST_TOLD = 5  # reasons at a time


class Kept:
    """The files that a tune run keeps of its clips beside the ledger, in its folder `tune`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER

    # Why clips have no value: key -> metric, "features X" or ALL -> reason.
    def reasons(self) -> dict[str, dict[str, str]]:
        """Return why clips have no value, by key and metric."""
        return self._read("unmeasured.json")

    def keep_reasons(self, reasons: Mapping[str, Mapping[str, str]]) -> None:
        """Keep why clips have no value."""
        self._write("unmeasured.json", reasons)

    def sources(self) -> dict[str, str]:
        """Return the sha256 of the functions whose values are in the run, by name."""
        return self._read("functions.json")

    def keep_sources(self, sources: Mapping[str, str]) -> None:
        """Keep what functions the values are of."""
        self._write("functions.json", sources)

    def features(self, extractor: str) -> dict[str, Floats]:
        """Return the features of clips, `(D,)` by key."""
        folder = self._features_folder(extractor)
        return {path.stem: self._load(path) for path in sorted(folder.glob("*.npy"))}

    def feature_keys(self, extractor: str) -> set[str]:
        """Return the keys of the clips that have features, without reading these."""
        return {path.stem for path in self._features_folder(extractor).glob("*.npy")}

    def keep_features(self, extractor: str, key: str, vector: Floats) -> None:
        """Keep the features `(D,)` of a clip."""
        self._save(self._features_folder(extractor) / f"{key}.npy", vector)

    def reference(self, extractor: str) -> Floats:
        """Return the features of the reference, `(M, D)`; none as long as it is not read."""
        path = self._reference_path(extractor)
        return self._load(path) if path.is_file() else np.zeros((0, 0))

    def keep_reference(self, extractor: str, vectors: Floats) -> None:
        """Keep the features `(M, D)` of the reference."""
        self._save(self._reference_path(extractor), vectors)

    def _features_folder(self, extractor: str) -> Path:
        return self.folder / "features" / extractor

    def _reference_path(self, extractor: str) -> Path:
        return self.folder / "features" / f"reference-{extractor}.npy"

    def _read(self, name: str) -> dict:
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            return dict(json.loads(path.read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise _damaged(path, error) from None

    @staticmethod
    def _load(path: Path) -> Floats:
        try:
            return np.load(path)
        except (ValueError, EOFError) as error:
            raise _damaged(path, error) from None

    def _write(self, name: str, content: Mapping) -> None:
        with atomic_replace(self.folder / name) as (part,):
            part.write_text(dump_json(content, indent=1) + "\n", "utf-8")

    @staticmethod
    def _save(path: Path, array: Floats) -> None:
        with atomic_replace(path) as (part,), part.open("wb") as file:
            np.save(file, array)


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} must be as tune wrote it, but it is damaged: {error}. Remove it, and run the same"
        " command again: it measures what is missing."
    )


class Measuring:
    """Networks and functions that measure clips; what they need is loaded once."""

    def __init__(
        self, parts: Sequence[Part], extractor: str, reference: Path | None, options: Options
    ) -> None:
        self.parts, self.extractor, self.reference = tuple(parts), extractor, reference
        self.options = options
        self.functions = {one.name: one.user for one in parts if one.user is not None}
        requests = requests_of(parts, extractor, options)
        self.catalog = [one.metric for one in requests if one.row.kind == "video"]
        self.reader = Reader(requests, options) if requests else None
        self._tried: set[str] = set()  # clips that had no value in this process
        self._told: dict[str, dict[str, None]] = {}  # reason -> the clips' own sentences

    def measure(self, run: Run, clips: Sequence[Clip]) -> list[str]:
        """Measure the clips that are done and lack something; see `Objective.measure`."""
        kept = Kept(run.folder)
        self._check_functions(kept)
        self._read_reference(kept)
        texts = {prompt.id: prompt.text for prompt in run.prompts()}
        names = {setting.id: setting.name for setting in run.settings()}
        have = kept.feature_keys(self.extractor) if self.extractor else set()
        reasons = kept.reasons()
        for clip in clips:
            if clip.status != "done" or clip.key in self._tried or not self._lacks(clip, have):
                continue
            where = _name_clip(clip, names)
            found = self._measure_clip(run, kept, clip, texts[clip.prompt], where)
            if found or clip.key in reasons:
                reasons = {**reasons, clip.key: found}
                kept.keep_reasons({key: why for key, why in reasons.items() if why})
            if found:
                self._tried.add(clip.key)
        said = [
            (_name_clip(clip, names), why)
            for clip in clips for why in reasons.get(clip.key, {}).values()
        ]  # fmt: skip
        self._refuse_nothing(run, kept, [why for _, why in said])
        return self._tell(said)

    def _tell(self, said: Sequence[tuple[str, str]]) -> list[str]:
        """Return each reason that has clips it was not told of, with the number of all of them.

        Args:
            said: clip and sentence, which names the clip.
        """
        grown: dict[str, dict[str, None]] = {}
        for where, text in said:
            told = self._told.setdefault(text.replace(where, ""), {})
            if text not in told:
                told[text] = None
                grown[text.replace(where, "")] = told
        found = [_counted([*texts]) for texts in grown.values()]
        if len(found) > _MOST_TOLD:
            left = sum(len(texts) for texts in [*grown.values()][_MOST_TOLD:])
            return [*found[:_MOST_TOLD], f"{left} more values are missing, each for a reason of its"
                    " own: tune/unmeasured.json in the run has them."]  # fmt: skip
        return found

    def _lacks(self, clip: Clip, have: set[str]) -> bool:
        names = [*self.catalog, *self.functions]
        return any(name not in clip.metrics for name in names) or (
            bool(self.extractor) and clip.key not in have
        )

    def _measure_clip(
        self, run: Run, kept: Kept, clip: Clip, text: str | None, where: str
    ) -> dict[str, str]:
        """Keep the values of a clip, and return what it has none of and why."""
        assert clip.video is not None
        source, frames, fps = file_source(clip.key, clip.video), None, clip.fps
        values: dict[str, float] = {}
        missing: dict[str, str] = {}
        if self.functions:
            try:
                opened = source.read()
                frames, fps = opened.stack(), opened.fps or fps
            except (ValueError, OSError) as error:
                return {ALL: f"The video of {where} cannot be read: {error}"}
            source = find_videos(
                {clip.key: frames}, None if fps is None else float(fps), self.options.pictures
            )[0]
        if self.reader is not None:
            missing |= self._read(kept, source, values, where)
        for name, user in self.functions.items():
            assert frames is not None
            pixels = frames.permute(0, 2, 3, 1).contiguous().numpy()
            try:
                values[name] = _call(user, pixels, text, None if fps is None else float(fps), where)
            except ValueError as error:
                missing[name] = str(error)
        run.record_metrics((clip.key, name, value) for name, value in values.items())
        return missing

    def _read(
        self, kept: Kept, source: Source, values: dict[str, float], where: str
    ) -> dict[str, str]:
        """Run all networks on a clip: values are added, features kept; returns what is missing."""
        assert self.reader is not None
        self.reader.readings = Readings()
        self.reader.read(GENERATED, [source])
        found = self.reader.readings
        values |= {metric: rows[source.name] for metric, rows in found.values.items()}
        if self.extractor and found.names(GENERATED, self.extractor):
            vector = found.stack(GENERATED, self.extractor, [source.name])[0]
            kept.keep_features(self.extractor, source.name, vector.double().numpy())
        return {
            one.metric: f"{where} has no {'value' if one.metric == ALL else one.metric}:"
            f" {one.reason}"
            for one in found.skipped
        }

    def _read_reference(self, kept: Kept) -> None:
        if not self.extractor or len(kept.reference(self.extractor)):
            return
        assert self.reader is not None
        assert self.reference is not None
        self.reader.readings = Readings()
        self.reader.read(
            REFERENCE, find_videos(self.reference, self.options.fps, self.options.pictures)
        )
        found = self.reader.readings
        names = found.names(REFERENCE, self.extractor)
        if len(names) < FEWEST_REFERENCE:
            why = "; ".join(f"{one.video}: {one.reason}" for one in found.skipped[:3])
            noun = self.options.noun
            raise ValueError(
                f"a reference must have {FEWEST_REFERENCE} {noun}s that can be measured, but"
                f" {self.reference} has {len(names)}. Add {noun}s. {why}"
            )
        vectors = found.stack(REFERENCE, self.extractor, names).double().numpy()
        kept.keep_reference(self.extractor, vectors)

    def _check_functions(self, kept: Kept) -> None:
        """Refuse a function that is not the one whose values are in the run."""
        known = kept.sources()
        for name, user in self.functions.items():
            if known.get(name, user.sha256) != user.sha256:
                raise ValueError(
                    f"the function {user.written} must be the one that measured the clips of this"
                    " run, but it was changed since. Give the new one another name, or tune into"
                    " another folder with --out."
                )
        now = {name: user.sha256 for name, user in self.functions.items() if user.sha256}
        if now.keys() - known.keys():
            kept.keep_sources(known | now)

    def _refuse_nothing(self, run: Run, kept: Kept, said: Sequence[str]) -> None:
        """Refuse a metric that has a value for no clip at all, before more clips are made."""
        if not said:
            return
        clips = run.clips("done")
        for one in self.parts:
            if not any(one.name in clip.metrics for clip in clips):
                raise ValueError(
                    f"{one.name} must have a value for some clips, but has none for the"
                    f" {len(clips)} that there are. {said[0]}"
                )
        if self.extractor and not kept.feature_keys(self.extractor):
            raise ValueError(
                f"clips must have features {self.extractor}, but none of the {len(clips)} that"
                f" there are has. {said[0]}"
            )


def _name_clip(clip: Clip, names: Mapping[int, str]) -> str:
    return f"{names[clip.setting]}, prompt {clip.prompt}, seed {clip.seed}"


def _counted(texts: Sequence[str]) -> str:
    """Return the first of some sentences that say the same of a clip each, and how many there are.

    The count stands in front of what can end in any way: the words of a function's error.
    """
    if len(texts) == 1:
        return texts[0]
    return f"{len(texts)} clips lack a value for one reason, the first of them: {texts[0]}"


def _call(
    user: UserMetric, pixels: np.ndarray, text: str | None, fps: float | None, where: str
) -> float:
    """Call a function of a user, whose errors become a sentence that names the clip."""
    try:
        with torch.no_grad():
            value = float(user.function(pixels, text, fps))
    except KeyboardInterrupt:  # of the person at the keyboard
        raise
    except BaseException as error:  # SystemExit among them: it must not end the tuning
        raise ValueError(
            f"{where} has no {user.name}: {user.written} failed with {describe_failure(error)}"
        ) from error
    if not math.isfinite(value):
        raise ValueError(f"{where} has no {user.name}: {user.written} returned {value}")
    return value
