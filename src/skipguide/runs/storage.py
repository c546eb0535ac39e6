"""The files of a run: who may write them, and how each appears at once or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from skipguide.files import folders
from skipguide.files.atomic import DISK_FULL_ERRORS
from skipguide.files.text import format_count
from skipguide.generate.record import hash_file
from skipguide.generate.settings import GenerationSettings
from skipguide.runs import ledger

VIDEOS, LATENTS, IMAGES, BROKEN, WORK = "videos", "latents", "images", "broken", "work"
_LOCK = "lock.sqlite"
# Per pixel and frame: of an mp4 at crf 12, twice what detailed footage takes; of a PNG of noise; of
# 16 channels of float32 per 8 x 8 x 4, and per 8 x 8.
_VIDEO_BYTES, _PICTURE_BYTES, _RESERVE = 0.2, 3.0, 64 << 20
_LATENT_BYTES, _PICTURE_LATENT_BYTES = 0.25, 1.0


@dataclass(frozen=True)
class ClipContents:
    """The contents of the files of a clip; `watched` is that of what watched it, by its folder."""

    video: bytes
    sidecar: bytes
    latents: bytes | None = None
    watched: Mapping[str, bytes] = field(default_factory=dict)
    suffix: str = ".mp4"  # of the video; a picture has another one


@dataclass(frozen=True)
class PublishedFiles:
    """The files of a clip that is done; paths are relative to the run directory."""

    video: str
    video_sha256: str
    video_bytes: int
    video_mtime_ns: int
    latents: str | None = None
    latents_sha256: str | None = None


# --- the right to write ---------------------------------------------------------------------------


def check_run_folder(folder: Path) -> None:
    """Check that a folder can hold a run.

    Raises:
        ValueError: if it is a file, or a folder of something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"a run needs a folder, but {folder} is a file. Name another with --out.")
    if folder.is_dir() and not _is_begun(folder):
        others = sorted(path.name for path in folders.contents(folder))
        if others:
            raise ValueError(
                f"a run needs an empty folder, a new one, or that of a run, but {folder} holds "
                f"{', '.join(others[:3])}. Name another with --out."
            )


def check_writable(folder: Path) -> None:
    """Check that a sweep may write to a folder, or make it.

    Raises:
        ValueError: if it may not.
    """
    if obstacle := folders.find_obstacle(folder):
        raise ValueError(
            f"a run needs a folder that can be written, but {obstacle}. Choose another with --out."
        )


def _is_begun(folder: Path) -> bool:
    """Return whether a sweep has begun in a folder, however soon it ended.

    The lock is its first file, and stays empty: nothing is ever committed to it.
    """
    lock = folder / _LOCK
    return (
        (folder / ledger.NAME).exists()
        or (folder / VIDEOS).is_dir()
        or (lock.is_file() and lock.stat().st_size == 0)
    )


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Be the only sweep in a folder until the block or the process ends, however it ends.

    Raises:
        ValueError: if there is another one, or as `check_run_folder` and `check_writable`.
        OSError: if nothing can be written there.
    """
    check_run_folder(folder)
    check_writable(folder)
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    # SQLite's own lock works on every system and goes with the process.
    try:
        lock = sqlite3.connect(folder / _LOCK, timeout=1, isolation_level=None)
    except sqlite3.OperationalError as error:
        raise _unwritable_error(folder, error) from None
    try:
        _acquire_lock(lock, folder)
        yield
    finally:
        lock.close()
        if new and not (folder / ledger.NAME).exists():  # refused before it began
            (folder / _LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()


def _acquire_lock(lock: sqlite3.Connection, folder: Path) -> None:
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise ValueError(
                "only one sweep at a time may write to a run, but another one is writing to"
                f" {folder}. Wait for it, end it, or name another folder with --out."
            ) from None
        raise _unwritable_error(folder, error) from None


def _unwritable_error(folder: Path, error: Exception) -> OSError:
    return OSError(
        f"a run needs a folder that can be written, but {folder} is not: {error}. Choose another"
        " with --out."
    )


def is_locked(folder: Path) -> bool:
    """Return whether a sweep is writing to a run."""
    if not (folder / _LOCK).is_file():
        return False
    lock = sqlite3.connect(f"{(folder / _LOCK).absolute().as_uri()}?mode=ro", uri=True, timeout=0)
    try:
        lock.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        return "locked" in str(error)
    finally:
        lock.close()
    return False


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed process left half-written. Call it only under the lock."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
    for pattern in (f"{VIDEOS}/.*.part", f"{LATENTS}/.*.part", "*/*/.*.part"):
        for part in folder.glob(pattern):
            part.unlink(missing_ok=True)


# --- publishing -----------------------------------------------------------------------------------


def publish(folder: Path, key: str, product: ClipContents) -> PublishedFiles:
    """Put the files of a clip in their places, the video last, so that a video there is complete.

    Raises:
        OSError: if the disk is full or cannot be written; then there is no new video.
    """
    latents = None
    if product.latents is not None:
        latents = write_atomically(folder, f"{LATENTS}/{key}.safetensors", product.latents)
        _fsync_folder(folder / LATENTS)
    for place, content in product.watched.items():
        write_atomically(folder, f"{place}/{key}.safetensors", content)
        _fsync_folder(folder / place)
    name = f"{VIDEOS}/{key}{product.suffix}"
    write_atomically(folder, f"{name}.json", product.sidecar)
    video = write_atomically(folder, name, product.video)
    _fsync_folder(folder / VIDEOS)
    return _describe_files(folder, video, latents)


def find_published(folder: Path, key: str, suffix: str, latents: bool) -> PublishedFiles | None:
    """Return the files of a clip that an earlier process has published, if all are there.

    Args:
        suffix: of the video, or of the picture.
        latents: whether the clip must have some.
    """
    video, beside = f"{VIDEOS}/{key}{suffix}", f"{LATENTS}/{key}.safetensors"
    if not (folder / video).is_file() or (latents and not (folder / beside).is_file()):
        return None
    return _describe_files(folder, video, beside if (folder / beside).is_file() else None)


def _describe_files(folder: Path, video: str, latents: str | None) -> PublishedFiles:
    stat = (folder / video).stat()
    beside = None if latents is None else hash_file(folder / latents)
    return PublishedFiles(
        video, hash_file(folder / video), stat.st_size, stat.st_mtime_ns, latents, beside
    )


def write_atomically(folder: Path, name: str, content: bytes) -> str:
    """Write one file of a run, under a name relative to it: all of it or nothing."""
    path = folder / name
    part = path.with_name(
        f".{path.name[:60]}.part"
    )  # names of pictures can be as long as the system takes
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave a name without content
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return name


def write_file(folder: Path, name: str, content: bytes) -> str:
    """Write one file of a run as `write_atomically` does; what the system says is said in words.

    Raises:
        OSError: if the disk is full or cannot be written.
    """
    with translate_os_errors(folder):
        return write_atomically(folder, name, content)


def copy_image(folder: Path, image: Path) -> str:
    """Copy the image of a prompt into the run, if it is not there yet, for those who see it later.

    Returns:
        The sha256 of the copy, which stands under `image_name`.

    Raises:
        OSError: if it cannot be read, or the disk is full or cannot be written.
    """
    content = image.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    name = image_name(digest, image.name)
    if not (folder / name).is_file() or hash_file(folder / name) != digest:
        (folder / IMAGES).mkdir(exist_ok=True)
        write_atomically(folder, name, content)
        _fsync_folder((folder / name).parent)
    return digest


def image_name(digest: str, name: str) -> str:
    """Return where an image of this content and name lies in a run."""
    return f"{IMAGES}/{digest[:16]}/{name}"


def _fsync_folder(folder: Path) -> None:
    """Force the names in a folder onto the disk; systems that cannot open a folder need it not."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def translate_os_errors(folder: Path) -> Iterator[None]:
    """Raise the system's errors with a message of this library."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # in words already
            raise
        if error.errno in DISK_FULL_ERRORS:
            raise OSError(
                f"the disk of {folder} is full. Free some space and run the same command again;"
                " finished clips are kept."
            ) from error
        raise OSError(
            f"a run needs a folder that can be written, but {error.filename or folder} is not:"
            f" {error.strerror}. Check it, or choose another with --out."
        ) from error


# --- checking -------------------------------------------------------------------------------------


def find_damage(folder: Path, files: PublishedFiles, thorough: bool) -> str | None:
    """Return what is wrong with the files of a finished clip; None if nothing is.

    Args:
        thorough: read everything; else only a video whose size or time of change is another.
    """
    video = folder / files.video
    if not video.is_file():
        return "is missing"
    stat = video.stat()
    changed = (stat.st_size, stat.st_mtime_ns) != (files.video_bytes, files.video_mtime_ns)
    if (changed or thorough) and hash_file(video) != files.video_sha256:
        return "is not the file that was written"
    if files.latents is not None and not (folder / files.latents).is_file():
        return "lacks its latents"
    if (
        files.latents is not None
        and thorough
        and hash_file(folder / files.latents) != files.latents_sha256
    ):
        return "has latents that are not the file that was written"
    return None


def quarantine(folder: Path, key: str) -> None:
    """Move damaged files out of the way of those that will replace them."""
    (folder / BROKEN).mkdir(exist_ok=True)
    for path in (*(folder / VIDEOS).glob(f"{key}.*"), *(folder / LATENTS).glob(f"{key}.*")):
        os.replace(path, folder / BROKEN / path.name)


def check_disk_space(folder: Path, wanted: list[GenerationSettings], latents: bool) -> int:
    """Check that the disk has room for so many videos.

    Args:
        wanted: complete settings, one per video to make.

    Returns:
        An estimate of the bytes that they take.

    Raises:
        OSError: if the disk has less.
    """
    needed = sum(round(_estimate_bytes(one, latents)) for one in wanted) + 16_384 * len(wanted)
    free = folders.free_bytes(folder)
    if needed and free < needed + _RESERVE:
        nouns = {one.noun for one in wanted}
        raise OSError(
            "the disk must have room for"
            f" {format_count(len(wanted), nouns.pop() if len(nouns) == 1 else 'clip')}, about"
            f" {(needed + _RESERVE) / 1e6:.0f} MB, but {folder} has {free / 1e6:.0f} MB. Free some"
            " space, or choose a folder on another disk with --out."
        )
    return needed


def _estimate_bytes(complete: GenerationSettings, latents: bool) -> float:
    """Return about how many bytes a clip takes."""
    pixels = (complete.height or 0) * (complete.width or 0)
    if complete.makes_picture:
        return pixels * (_PICTURE_BYTES + (_PICTURE_LATENT_BYTES if latents else 0))
    per_pixel = _VIDEO_BYTES + (_LATENT_BYTES if latents else 0)
    return pixels * (complete.num_frames or 0) * per_pixel
