"""What happens to jobs, as the ledger tells it: begun, done, failed; and what a sweep finds when it comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from skipguide.runs import storage as files
from skipguide.runs.engine import Failed
from skipguide.runs.jobs import Job
from skipguide.runs.ledger import Ledger, now, to_json
from skipguide.runs.storage import Published

_OF_FILES = ("video", "video_sha256", "video_bytes", "video_mtime_ns", "latents", "latents_sha256")


def begin(ledger: Ledger, job: Job) -> None:
    """A worker has begun a job."""
    with ledger.writing():
        ledger.db.execute(
            "UPDATE jobs SET status = 'running', attempts = attempts + 1, error = NULL WHERE key = ?", (job.key,)
        )


def finish(ledger: Ledger, key: str, published: Published, record: dict[str, Any], environment: dict[str, Any]) -> None:
    """The files of a job are in their places."""
    frames, height, width, _ = record["frames"]
    values = {
        "status": "done", "error": None, "finished": now(), "frames": frames, "height": height, "width": width,
        "fps": str(record["settings"]["fps"]), "frames_sha256": record["frames_sha256"], **record["measured"],
        **{name: getattr(published, name) for name in _OF_FILES},
    }  # fmt: skip
    content = to_json(environment)
    with ledger.writing():
        same = {"sha256": hashlib.sha256(content.encode()).hexdigest()}
        values["environment"] = ledger.id_of("environments", same, {"content": content})
        setters = ", ".join(f"{name} = ?" for name in values)
        ledger.db.execute(f"UPDATE jobs SET {setters} WHERE key = ?", (*values.values(), key))


def fail(ledger: Ledger, event: Failed) -> None:
    """A job cannot be done."""
    with ledger.writing():
        ledger.db.execute("UPDATE jobs SET status = 'failed', error = ? WHERE key = ?", (event.error, event.job.key))


def wait_again(ledger: Ledger, retry: Sequence[str] = ()) -> None:
    """Jobs under way when a process ended are to be done; of those that failed, the ones with these keys."""
    with ledger.writing():
        ledger.db.execute("UPDATE jobs SET status = 'pending' WHERE status = 'running'")
        ledger.db.executemany(
            "UPDATE jobs SET status = 'pending', error = NULL WHERE status = 'failed' AND key = ?",
            [(key,) for key in retry],
        )


def forget(ledger: Ledger, keys: Sequence[str]) -> None:
    """Take jobs of one plan that are not done out of the ledger, with the settings and plans that then have none."""
    if not keys:
        return
    with ledger.writing():
        ledger.db.executemany(
            "DELETE FROM jobs WHERE key = ? AND status = 'pending' "
            "AND (SELECT count(*) FROM plan_jobs WHERE job = key) = 1 "
            "AND key NOT IN (SELECT first FROM votes UNION SELECT second FROM votes WHERE second IS NOT NULL)",
            [(key,) for key in keys],
        )
        ledger.db.execute("DELETE FROM plans WHERE id NOT IN (SELECT plan FROM plan_jobs)")
        ledger.db.execute("DELETE FROM settings WHERE id NOT IN (SELECT setting FROM jobs)")


def mend(ledger: Ledger, folder: Path, jobs: Sequence[Job], thorough: bool, looking: bool = False) -> list[str]:
    """Make ledger and files agree: videos that are there are done, those that are gone or damaged are to be made.

    Args:
        thorough: read every file to its end.
        looking: leave files where they are.

    Returns:
        What was wrong, one line each.
    """
    rows = {row["key"]: row for row in ledger.rows("SELECT * FROM jobs")}
    wrong = []
    for key, row in rows.items():
        if row["status"] == "done":
            complaint = files.complaint(folder, Published(**{name: row[name] for name in _OF_FILES}), thorough)
            if complaint is not None:
                if not looking:
                    files.set_aside(folder, key)
                _make_again(ledger, key)
                wrong.append(f"{row['video']} {complaint}: it is made again")
    lost = {line.partition(" ")[0] for line in wrong}
    for job in jobs:
        row = rows[job.key]
        done = row["status"] == "done" and row["video"] not in lost
        if done and job.latents and row["latents"] is None:
            _make_again(ledger, job.key)
            wrong.append(f"{row['video']} was made without latents: it is made again")
        elif not done and row["video"] not in lost:
            _adopt(ledger, folder, job, looking)
    return wrong


def _make_again(ledger: Ledger, key: str) -> None:
    empty = ", ".join(f"{name} = NULL" for name in _OF_FILES)
    with ledger.writing():
        ledger.db.execute(f"UPDATE jobs SET status = 'pending', {empty} WHERE key = ?", (key,))


def _adopt(ledger: Ledger, folder: Path, job: Job, looking: bool) -> None:
    """Take over a video that was published before the ledger heard of it, or whose ledger is gone."""
    published = files.found(folder, job.key, job.latents)
    if published is None:
        return
    record = _sound(folder / published.video, job.key)
    if record is None:
        if not looking:
            files.set_aside(folder, job.key)
        return
    known = {name: record.get(name) for name in ("versions", "machine")}
    finish(ledger, job.key, published, record, known)


def _sound(path: Path, key: str) -> dict[str, Any] | None:
    """The record of a video, if it is that of the job and all frames can be read."""
    from skipguide.files import video

    try:
        record = video.read_record(path)
        frames, _ = video.read(path)
    except ValueError:
        return None
    sound = record.get("run", {}).get("key") == key and list(frames.shape) == record.get("frames")
    return record if sound else None


def missing(ledger: Ledger, jobs: Iterable[Job]) -> list[Job]:
    """The jobs that are still to be done, in their order."""
    pending = {row["key"] for row in ledger.rows("SELECT key FROM jobs WHERE status = 'pending'")}
    return [job for job in jobs if job.key in pending]
