"""Join runs: one folder with the clips, numbers, votes, tags and notes of several.

The new folder gets its name when it is complete; the others are only read.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from skipguide.files import folders
from skipguide.runs import merge_judgements, merge_rows, merge_studies
from skipguide.runs import storage as files
from skipguide.runs.ledger import NAME, Ledger, to_json
from skipguide.runs.merge_rows import Join

_RESERVE = 64 << 20  # bytes that stay free


@dataclass(frozen=True)
class Merged:
    """The result of a merge."""

    folder: Path
    clips: int  # of all statuses
    done: int
    shared: int  # that more than one run had
    settings: int
    votes: int
    notes: tuple[str, ...]  # what was renamed, or differed, a sentence each


def merge(sources: Sequence[Path], out: Path) -> Merged:
    """Join run folders into a new one; it appears under its name when it is complete.

    A clip that several have is there once. A setting whose name has another content in an earlier
    run gets the name of its own run behind it. Of two values of one thing the newer one is kept,
    and the notes say so.

    Args:
        sources: run folders, two at least. In case of doubt the first one is right.
        out: a folder that does not exist, or is empty.

    Raises:
        ValueError: for something else than runs, a run that is being swept, or another `out`.
        OSError: if the disk is full or cannot be read or written; then nothing is left of it.
    """
    _check(sources, out)
    notes: list[str] = []
    with (
        _translate_os_errors(out),
        _growing_folder(out) as part,
        files.lock_folder(part),
        contextlib.closing(Ledger(part, "create")) as target,
    ):
        lost: dict[str, list[str]] = {}  # by run
        held: Counter[str] = Counter()  # how many runs have a clip
        for folder, label in zip(sources, _labels(sources), strict=True):
            with contextlib.closing(Ledger(folder, "read")) as source:
                source.check()
                source.db.execute("BEGIN")  # one moment of it, whoever writes a vote meanwhile
                join = Join(target, part, source, folder, label, notes)
                with target.transaction():
                    _join(join)
                lost[label] = join.lost
                held.update(row["key"] for row in source.rows("SELECT key FROM jobs"))
        with target.transaction():
            _remember_sources(target, _labels(sources))
        merge_rows.say_what_is_lost(target, lost, notes)
        merge_judgements.say_what_is_partial(target, notes)
        shared = sum(number > 1 for number in held.values())
        return _summarize(target, out, shared, notes)


def _join(join: Join) -> None:
    merge_rows.join_rows(join)
    merge_rows.join_jobs(join)
    merge_judgements.join_metrics(join)
    merge_judgements.join_set_metrics(join)
    merge_studies.join_studies(join)
    merge_judgements.join_votes(join)
    merge_judgements.join_annotations(join)
    merge_judgements.say_what_is_left(join)


def _remember_sources(target: Ledger, labels: Sequence[str]) -> None:
    """Keep which runs were joined: the new run is another one than the first of them."""
    target.db.execute("INSERT OR REPLACE INTO meta VALUES ('merged', ?)", (to_json(labels),))


def _summarize(target: Ledger, out: Path, shared: int, notes: Sequence[str]) -> Merged:
    def count(query: str) -> int:
        return target.rows(f"SELECT count(*) AS n FROM {query}")[0]["n"]

    clips = count("jobs")
    done = count("jobs WHERE status = 'done'")
    return Merged(out, clips, done, shared, count("settings"), count("votes"), tuple(notes))


def _labels(sources: Sequence[Path]) -> list[str]:
    """Return what to call the runs: by their folders, with a number where two have one name."""
    names = [folder.resolve().name for folder in sources]
    return [
        name if names.count(name) == 1 else f"{name} {names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]


# --- before anything is written -------------------------------------------------------------------


def _check(sources: Sequence[Path], out: Path) -> None:
    real = [folder.resolve() for folder in sources]
    if len(set(real)) != len(real) or len(real) < 2:
        raise ValueError(
            "a merge must have two runs at least, each once, but got"
            f" {', '.join(map(str, sources)) or 'none'}. Name the others."
        )
    for folder in sources:
        Ledger(folder, "read").close()
        if files.is_locked(folder):
            raise ValueError(
                f"a run must be at rest to be joined, but a sweep is writing to {folder}. Wait for"
                " it, or end it."
            )
    inside = any(out.resolve().is_relative_to(folder) for folder in real)
    if inside or (out.exists() and (not out.is_dir() or any(folders.contents(out)))):
        raise ValueError(
            "a merge must have a new folder, or an empty one, outside of the runs that it joins,"
            f" but {out} is not. Name another with --out."
        )
    files.check_writable(out)
    _check_space(sources, out)


def _check_space(sources: Sequence[Path], out: Path) -> None:
    kept = (files.VIDEOS, files.LATENTS, files.IMAGES, NAME)
    paths = [path for folder in sources for name in kept for path in _files_in(folder / name)]
    needed = sum(path.stat().st_size for path in paths) + _RESERVE
    free = folders.free_bytes(out.absolute().parent)
    if free < needed:
        raise OSError(
            f"the disk must have room for the runs, about {needed / 1e6:.0f} MB, but that of {out}"
            f" has {free / 1e6:.0f} MB. Free some space, or name a folder on another disk with"
            " --out."
        )


def _files_in(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from (inner for inner in path.rglob("*") if inner.is_file())


@contextlib.contextmanager
def _translate_os_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None:  # in words already
            raise
        raise OSError(
            f"a merge must be able to read its runs and to write {out}, but"
            f" {error.filename or out} fails: {error.strerror}. Nothing was written; correct that"
            " and merge again."
        ) from error


@contextlib.contextmanager
def _growing_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` that takes its name if the block succeeds, and is gone else.

    What a killed merge into the same folder has left is removed first.
    """
    around = out.absolute().with_name(f".{out.absolute().name[:60]}.merge")
    part = around / "run"
    if part.is_dir() and files.is_locked(part):
        raise ValueError(f"only one merge at a time may write {out}. Wait for the other one.")
    shutil.rmtree(around, ignore_errors=True)
    try:
        around.mkdir(parents=True)
        yield part
        os.replace(part, out)
    finally:
        shutil.rmtree(around, ignore_errors=True)
