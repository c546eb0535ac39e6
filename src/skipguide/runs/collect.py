"""Make a run of videos that lie in a folder already, as those of a comparison do.

The studio shows such a run, `skipguide evaluate` measures it by setting, and a sweep goes on with
it: its clips have the keys that a sweep would give them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from skipguide.generate.record import hash_file, library_versions, upgrade_settings
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import PlainData
from skipguide.models.places import without_places
from skipguide.runs import jobs as jobs_of
from skipguide.runs import progress, setting_names
from skipguide.runs.environment import environment
from skipguide.runs.jobs import Job, ResolvedSetting
from skipguide.runs.ledger import Ledger, to_json
from skipguide.runs.plan import Plan
from skipguide.runs.plan_settings import Setting
from skipguide.runs.prompt_rows import Prompt
from skipguide.runs.storage import PublishedFiles


@dataclass(frozen=True)
class FinishedClip:
    """A video that lies in the folder of a run.

    Args:
        setting: what its setting shall be called.
        base: complete, without what the row of its prompt says.
        own: complete, of this video; for prompts without settings the same as `base`.
        prompt: its text, image, and settings.
        record: of the video.
        video: the mp4.
    """

    setting: str
    base: GenerationSettings
    own: GenerationSettings
    prompt: Prompt
    record: PlainData
    video: Path


def collect(folder: Path, clips: Sequence[FinishedClip], weights: dict[str, str]) -> list[str]:
    """Enter videos into the ledger of their folder, which is made if there is none.

    Args:
        weights: the `weights_fingerprint` of their model.

    Returns:
        The names of their settings; one whose name another one has gets a number.

    Raises:
        OSError: if the ledger cannot be written.
    """
    with contextlib.closing(Ledger(folder, "create")) as ledger:
        surveyed = _name_settings(ledger, clips, weights)
        pictures = {clip.prompt.image for clip in clips if clip.prompt.image}
        images: dict[Path | None, str] = {image: hash_file(image) for image in pictures}
        jobs = [_job(clip, surveyed, images) for clip in clips]
        entries = list(surveyed.values())
        jobs_of.register_jobs(ledger, _plan(clips, entries), entries, jobs)
        for job, clip in zip(jobs, clips, strict=True):
            made = environment(clip.record)
            progress.mark_done(ledger, job.key, _files(folder, clip.video), clip.record, made)
        _store_passes(ledger, zip(jobs, clips, strict=True))
    return [surveyed[_content(clip)].setting.name for clip in clips]


def _store_passes(ledger: Ledger, made: Iterable[tuple[Job, FinishedClip]]) -> None:
    """Keep what the settings cost, for readers."""
    rows = [(clip.record["measured"]["passes_per_step"], job.key) for job, clip in made]
    with ledger.transaction():
        ledger.db.executemany(
            "UPDATE settings SET passes_per_step = ? WHERE passes_per_step IS NULL AND id ="
            " (SELECT setting FROM jobs WHERE key = ?)",
            rows,
        )


def _content(clip: FinishedClip) -> str:
    return to_json([clip.base.model, without_places(jobs_of.setting_content(clip.base))])


def _name_settings(
    ledger: Ledger, clips: Sequence[FinishedClip], weights: dict[str, str]
) -> dict[str, ResolvedSetting]:
    """Return the settings of clips by what is in them, each with a name of its own."""
    rows = ledger.rows("SELECT s.name, s.complete, m.name AS model FROM settings s JOIN models m"
                       " ON m.id = s.model")  # fmt: skip
    taken = {
        (row["model"], row["name"]): to_json(
            without_places(upgrade_settings(json.loads(row["complete"])))
        )
        for row in rows
    }
    found: dict[str, ResolvedSetting] = {}
    for clip in clips:
        if _content(clip) in found:
            continue
        said = jobs_of.setting_content(clip.base)
        same = to_json(without_places(said))
        name = next(
            name
            for name in setting_names.numbered(clip.setting)
            if taken.get((clip.base.model, name), same) == same
        )
        taken[clip.base.model, name] = same
        setting = Setting(name, said, clip.base)
        found[_content(clip)] = ResolvedSetting(setting, clip.base, weights)
    return found


def _job(
    clip: FinishedClip, surveyed: dict[str, ResolvedSetting], images: dict[Path | None, str]
) -> Job:
    entry = surveyed[_content(clip)]
    image = images.get(clip.prompt.image)
    key = jobs_of.job_key(
        dataclasses.replace(entry, complete=clip.own), clip.prompt, clip.own.seed, image,
        library_versions(),
    )  # fmt: skip
    digest = jobs_of.prompt_digest(clip.prompt, image)
    return Job(key, entry.setting.name, clip.own, clip.prompt.image, False, digest)


def _plan(clips: Sequence[FinishedClip], entries: Sequence[ResolvedSetting]) -> Plan:
    """Return a plan of these clips; it is kept as text, as those of sweeps are."""
    prompts = {clip.prompt.identity(): clip.prompt for clip in clips}
    seeds = tuple(dict.fromkeys(clip.own.seed for clip in clips))
    left_out = ("model", "device")
    content = {
        "model": clips[0].base.model,
        "prompts": [
            {"prompt": prompt.text, **({"image": prompt.image.name} if prompt.image else {}),
             **prompt.settings}
            for prompt in prompts.values()
        ],
        "seeds": list(seeds),
        "settings": [
            {"name": entry.setting.name,
             **{name: value for name, value in entry.setting.given.items() if name not in left_out}}
            for entry in entries
        ],
    }  # fmt: skip
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    settings = tuple(entry.setting for entry in entries)
    return Plan(tuple(prompts.values()), seeds, settings, text=text)


def _files(folder: Path, video: Path) -> PublishedFiles:
    stat = video.stat()
    name = video.relative_to(folder).as_posix()
    return PublishedFiles(name, hash_file(video), stat.st_size, stat.st_mtime_ns)
