"""The settings of a run by model, and the prompts and seeds that all of them have videos of.

Only what is whole is compared: a prompt and a seed of which each setting has its video. Settings
without any video are left out. Both are said in `Group.notes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from skipguide.method.protocols import ReadOnlyData
from skipguide.runs import Clip, Run, Setting

Cell = tuple[int, int]  # prompt, seed


@dataclass(frozen=True)
class Contender:
    """A setting with its videos that are done, and how many are not, by status."""

    setting: Setting
    clips: dict[Cell, Clip]
    missing: dict[str, int]


@dataclass(frozen=True)
class Group:
    """The settings of one model, in the order of the run.

    Args:
        baseline: None if it has no videos.
        cells: what all of them have, in the order of the run.
        notes: what is left out, a sentence each.
    """

    model: str
    baseline: Setting | None
    contenders: tuple[Contender, ...]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]

    @property
    def prompts(self) -> list[int]:
        """The prompt of each cell, which is its cluster."""
        return [prompt for prompt, _ in self.cells]

    @property
    def settings(self) -> list[Setting]:
        return [one.setting for one in self.contenders]


def groups(run: Run, baseline: str | None, patterns: Sequence[str] = ()) -> list[Group]:
    """Return the settings to compare, by model.

    Args:
        baseline: the name of a setting; None is, of each model, the first one with CFG alone, or
            else the first one.
        patterns: shell patterns of names of settings; none stands for all. The baseline is always
            among them.

    Raises:
        ValueError: if there is no such setting, or there are no videos.
    """
    known = run.settings()
    _check_names([setting.name for setting in known], baseline, patterns)
    clips: dict[int, list[Clip]] = {setting.id: [] for setting in known}
    for clip in run.clips():
        clips[clip.setting].append(clip)
    if not any(clip.status == "done" for own in clips.values() for clip in own):
        raise ValueError(
            f"a run must have videos to compare, but {run.folder} has none yet. Run its sweep"
            " first."
        )
    found = []
    for model in dict.fromkeys(setting.model for setting in known):
        all_of = [_contender(s, clips[s.id]) for s in known if s.model == model]
        found.append(_group(model, all_of, baseline, patterns))
    return [group for group in found if group.contenders]


def _check_names(names: Sequence[str], baseline: str | None, patterns: Sequence[str]) -> None:
    known = ", ".join(dict.fromkeys(names))
    if baseline is not None and baseline not in names:
        raise ValueError(
            f"the baseline must be a setting of the run, but got {baseline!r}. It has {known}."
        )
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"settings must be names or patterns of names, but {pattern!r} fits none. The run"
                f" has {known}."
            )


def _contender(setting: Setting, clips: Sequence[Clip]) -> Contender:
    done = {(clip.prompt, clip.seed): clip for clip in clips if clip.status == "done"}
    missing = Counter(clip.status for clip in clips if clip.status != "done")
    return Contender(setting, done, dict(missing))


def _group(
    model: str, all_of: Sequence[Contender], name: str | None, patterns: Sequence[str]
) -> Group:
    newest = {one.setting.name: one for one in all_of}
    baseline = _find_baseline([one for one in newest.values() if one.clips], name)
    asked = [one for one in newest.values() if _fits(one, patterns)]
    wanted = [one for one in newest.values() if one in asked or one.setting == baseline]
    chosen = [one for one in wanted if one.clips] if asked else []
    every = [one.clips.keys() for one in chosen]
    cells = [cell for cell in every[0] if all(cell in own for own in every)] if chosen else []
    notes = list(_notes(model, wanted, chosen, cells))
    if len(newest) < len(all_of):
        notes.append(
            f"{model} has settings of one name that were made with different weights: the newest"
            " are compared."
        )
    if baseline is None and chosen:
        notes.append(f"{model} has no videos of {name}, so there are no differences to it.")
    return Group(model, baseline, tuple(chosen), tuple(cells), tuple(notes))


def _fits(one: Contender, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(one.setting.name, pattern) for pattern in patterns)


def _find_baseline(contenders: Sequence[Contender], name: str | None) -> Setting | None:
    settings = [one.setting for one in contenders]
    if name is not None:
        return next((setting for setting in settings if setting.name == name), None)
    plain = (setting for setting in settings if not _has_terms(setting.complete))
    return next(plain, settings[0] if settings else None)


def _has_terms(complete: ReadOnlyData) -> bool:
    guidance = complete.get("guidance") or {}
    return any(guidance.get(name) for name in ("terms", "schedule", "restart", "cfg"))


def _notes(
    model: str, wanted: Sequence[Contender], chosen: Sequence[Contender], cells: Sequence[Cell]
) -> Iterator[str]:
    most = max((len(one.clips) for one in chosen), default=0)
    for one in wanted:
        if one.missing:
            states = ", ".join(f"{count} {status}" for status, count in one.missing.items())
            total = len(one.clips) + sum(one.missing.values())
            left_out = "" if one.clips else ", so it is left out"
            made = f"{len(one.clips)} of {total} videos"
            yield f"{model} {one.setting.name}: {made} ({states}){left_out}."
    if chosen and len(cells) < most:
        fewest = min(chosen, key=lambda one: len(one.clips)).setting.name
        yield (
            f"{model}: compared on the {len(cells)} pairs of prompt and seed that all settings"
            f" have; the most that one has is {most}, the fewest has {fewest}. Finish the sweep, or"
            " choose settings with --settings."
        )
