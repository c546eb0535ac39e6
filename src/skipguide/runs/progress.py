"""Record in the ledger what happens to jobs, and reconcile it with the files when a sweep
returns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from skipguide.method.protocols import PlainData
from skipguide.runs import storage as files
from skipguide.runs.engine import JobFailed
from skipguide.runs.jobs import Job
from skipguide.runs.ledger import Ledger, to_json, utc_now
from skipguide.runs.storage import PublishedFiles
from skipguide.runs.watch import watched_file

_MEASURED_COLUMNS = ("passes_per_step", "seconds_per_step", "seconds")
_FILE_COLUMNS = (
    "video",
    "video_sha256",
    "video_bytes",
    "video_mtime_ns",
    "latents",
    "latents_sha256",
)


def mark_running(ledger: Ledger, job: Job) -> None:
    """Record that a worker has begun a job."""
    with ledger.transaction():
        ledger.db.execute(
            "UPDATE jobs SET status = 'running', attempts = attempts + 1, error = NULL WHERE"
            " key = ?",
            (job.key,),
        )


def mark_done(
    ledger: Ledger,
    key: str,
    published: PublishedFiles,
    record: PlainData,
    environment: PlainData,
) -> None:
    """Record that the files of a job are in their places."""
    frames, height, width, _ = record["frames"]
    fps = record["settings"]["fps"]  # None of a picture
    values = {
        "status": "done", "error": None, "finished": utc_now(), "frames": frames, "height": height,
        "width": width, "fps": fps if fps is None else str(fps),
        "frames_sha256": record["frames_sha256"],
        **{name: record["measured"][name] for name in _MEASURED_COLUMNS},
        **{name: getattr(published, name) for name in _FILE_COLUMNS},
    }  # fmt: skip
    content = to_json(environment)
    with ledger.transaction():
        same = {"sha256": hashlib.sha256(content.encode()).hexdigest()}
        values["environment"] = ledger.get_or_insert_id("environments", same, {"content": content})
        setters = ", ".join(f"{name} = ?" for name in values)
        ledger.db.execute(f"UPDATE jobs SET {setters} WHERE key = ?", (*values.values(), key))


def mark_failed(ledger: Ledger, event: JobFailed) -> None:
    """Record that a job has failed, and why."""
    with ledger.transaction():
        ledger.db.execute(
            "UPDATE jobs SET status = 'failed', error = ? WHERE key = ?",
            (event.error, event.job.key),
        )


def requeue_interrupted(ledger: Ledger, retry: Sequence[str] = ()) -> None:
    """Make jobs pending that were running when a process ended, and failed ones with these keys."""
    with ledger.transaction():
        ledger.db.execute("UPDATE jobs SET status = 'pending' WHERE status = 'running'")
        ledger.db.executemany(
            "UPDATE jobs SET status = 'pending', error = NULL WHERE status = 'failed' AND key = ?",
            [(key,) for key in retry],
        )


def delete_pending(ledger: Ledger, keys: Sequence[str]) -> None:
    """Delete jobs of one plan that are not done, and settings and plans that have no jobs then."""
    if not keys:
        return
    with ledger.transaction():
        ledger.db.executemany(
            "DELETE FROM jobs WHERE key = ? AND status = 'pending' AND (SELECT count(*) FROM"
            " plan_jobs WHERE job = key) = 1 AND key NOT IN (SELECT first FROM votes UNION SELECT"
            " second FROM votes WHERE second IS NOT NULL)",
            [(key,) for key in keys],
        )
        ledger.db.execute("DELETE FROM plans WHERE id NOT IN (SELECT plan FROM plan_jobs)")
        ledger.db.execute("DELETE FROM settings WHERE id NOT IN (SELECT setting FROM jobs)")


def reconcile(
    ledger: Ledger, folder: Path, jobs: Sequence[Job], thorough: bool, keep_files: bool = False
) -> list[str]:
    """Reconcile the ledger with the files: existing videos become done, missing or damaged ones
    pending.

    Args:
        thorough: read every file to its end.
        keep_files: leave files where they are.

    Returns:
        What was wrong, one line each.
    """
    rows = {row["key"]: row for row in ledger.rows("SELECT * FROM jobs")}
    wrong = []
    for key, row in rows.items():
        if row["status"] == "done":
            complaint = files.find_damage(
                folder, PublishedFiles(**{name: row[name] for name in _FILE_COLUMNS}), thorough
            )
            if complaint is not None:
                if not keep_files:
                    files.quarantine(folder, key)
                _reset_to_pending(ledger, key)
                wrong.append(f"{row['video']} {complaint}: it is made again")
    lost = {line.partition(" ")[0] for line in wrong}
    for job in jobs:
        row = rows[job.key]
        done = row["status"] == "done" and row["video"] not in lost
        lacks = _find_missing(folder, job, row["latents"]) if done else None
        if lacks is not None:
            _reset_to_pending(ledger, job.key)
            wrong.append(f"{row['video']} was made without {lacks}: it is made again")
        elif not done and row["video"] not in lost:
            _adopt(ledger, folder, job, keep_files)
    return wrong


def _find_missing(folder: Path, job: Job, latents: str | None) -> str | None:
    """Return what a job shall keep beside its video and an earlier plan did not ask for."""
    if job.latents and latents is None:
        return "latents"
    if job.watch is not None and not (folder / watched_file(job.watch, job.key)).is_file():
        return "what was to be measured meanwhile"
    return None


def _reset_to_pending(ledger: Ledger, key: str) -> None:
    empty = ", ".join(f"{name} = NULL" for name in _FILE_COLUMNS)
    with ledger.transaction():
        ledger.db.execute(f"UPDATE jobs SET status = 'pending', {empty} WHERE key = ?", (key,))


def _adopt(ledger: Ledger, folder: Path, job: Job, keep_files: bool) -> None:
    """Take over a video that was published before the ledger heard of it, or whose ledger is
    gone."""
    published = files.find_published(folder, job.key, job.generation.suffix, job.latents)
    if published is None or _find_missing(folder, job, published.latents) is not None:
        return
    record = _read_matching_record(folder / published.video, job.key)
    if record is None:
        if not keep_files:
            files.quarantine(folder, job.key)
        return
    known = {name: record.get(name) for name in ("versions", "machine")}
    mark_done(ledger, job.key, published, record, known)


def _read_matching_record(path: Path, key: str) -> PlainData | None:
    """Return the record of a video if it belongs to the job and all frames can be read, else
    None."""
    from skipguide.files import clips

    try:
        record = clips.read_record(path)
        frames, _ = clips.read(path)
    except ValueError:
        return None
    sound = record.get("run", {}).get("key") == key and list(frames.shape) == record.get("frames")
    return record if sound else None


def pending_jobs(ledger: Ledger, jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs that are still to be done, in their order."""
    pending = {row["key"] for row in ledger.rows("SELECT key FROM jobs WHERE status = 'pending'")}
    return [job for job in jobs if job.key in pending]
