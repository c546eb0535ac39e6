"""What there is to show of a tune run: its map, its race and its answer, from the files in `tune/`.

The studio and report.html read a run by this alone. A file that is not there yet is None; one that
cannot be read is told in `problems`, so that the rest is shown.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from skipguide.files.places import data_without_folders, without_folders
from skipguide.method.protocols import PlainData
from skipguide.runs import Run
from skipguide.tuning.names import FOLDER, PRESET
from skipguide.tuning.race import votes as vote_race
from skipguide.tuning.scan import map_document

FILES = ("map", "race", "answer")  # each a .json
_NOT_SHOWN = ("gram",)  # of the map: a number for every two cells


def read(run: Run) -> PlainData | None:
    """Return what there is to show of a run; None if `skipguide tune` has nothing in it.

    Returns:
        {"map", "race", "answer"} as docs/tune.md has the files, None each where there is none;
        "votes", how the race by votes stands, where tune waits for them; "problems", a sentence for
        each file that cannot be read.
    """
    if not any(_path(run.folder, name).is_file() for name in FILES):
        return None
    problems: list[str] = []
    found: PlainData = {name: _read_file(run.folder, name, problems) for name in FILES}
    race = found["race"] or {}
    found["answer"] = found["answer"] or race.get("answer")
    found["votes"] = _read_votes(run, race.get("votes"), problems)
    return {**found, "problems": problems}


def find_state(folder: Path) -> tuple[object, ...]:
    """Return what differs whenever a file of `tune/` has been written: sizes and times."""
    found: list[object] = []
    for name in FILES:
        try:
            stat = os.stat(_path(folder, name))
        except OSError:
            continue
        found += [name, stat.st_size, stat.st_mtime_ns]
    return tuple(found)


def shareable_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a tuning as others may have them: (name in the run, content).

    No folder of this machine is named in them. What cannot be read is left out.
    """
    for name in FILES:
        if content := _read_file(folder, name, [], whole=True):
            told = content if name == "map" else data_without_folders(content)
            yield f"{FOLDER}/{name}.json", json.dumps(told, ensure_ascii=False).encode()
    for name in (f"{FOLDER}/map.csv", PRESET):
        path = folder / name
        if path.is_file():
            yield name, without_folders(path.read_text(encoding="utf-8", errors="replace")).encode()


def compared_settings(run: Run) -> PlainData | None:
    """Return which settings tune compares by votes now; None where it waits for none.

    Returns:
        {"names", "baseline", "prompts"}: settings, the one of CFG alone, and ids of prompts.
    """
    asked = (_read_file(run.folder, "race", []) or {}).get("votes")
    if not asked or _wrong_in(run, asked):
        return None
    return asked


def _wrong_in(run: Run, asked: object) -> str:
    """Return what is wrong with which votes are wanted; "" if nothing is."""
    listed = asked if isinstance(asked, dict) else {}
    names, prompts = listed.get("names"), listed.get("prompts")
    known = {setting.name for setting in run.settings()}
    if not isinstance(names, list) or not isinstance(prompts, list):
        return "they must be of some settings on some prompts"
    if unknown := [name for name in [*names, listed.get("baseline")] if name not in known]:
        return f"the run has no setting {unknown[0]!r}"
    return ""


def _path(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.json"


def _read_file(
    folder: Path, name: str, problems: list[str], whole: bool = False
) -> PlainData | None:
    """Return the content of a file of tune/; a problem is told where it is not what it must be.

    Args:
        whole: with what is not shown, which is much.
    """
    path = _path(folder, name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{FOLDER}/{name}.json cannot be read: {error}.")
        return None
    is_known = isinstance(content, dict) and (
        name != "map" or content.get("format") == map_document.FORMAT
    )
    if not is_known:
        problems.append(
            f"{FOLDER}/{name}.json is not what this version of skipguide writes. Run the command"
            " that made it again, or open the run with the version that wrote it."
        )
        return None
    return {key: value for key, value in content.items() if whole or key not in _NOT_SHOWN}


def _read_votes(run: Run, asked: PlainData | None, problems: list[str]) -> PlainData | None:
    if not asked:
        return None
    if wrong := _wrong_in(run, asked):
        problems.append(
            f"The votes of the race cannot be counted: {wrong}. Run the command of the tuning"
            " again, which writes tune/race.json anew."
        )
        return None
    rules = vote_race.VoteRules.of(asked)
    return vote_race.state(
        run, asked["names"], asked["baseline"], asked["prompts"], rules
    ).to_dict()
