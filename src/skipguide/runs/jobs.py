"""The jobs of a plan: one video each, named by a hash over everything that decides its content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skipguide.files.text import format_count
from skipguide.generate.flags import from_guidance
from skipguide.generate.record import hash_file, upgrade_settings
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.models.places import without_places
from skipguide.runs import storage as files
from skipguide.runs.ledger import Ledger, to_json, utc_now
from skipguide.runs.plan import Plan
from skipguide.runs.plan_settings import Setting, variant_of
from skipguide.runs.prompt_rows import Prompt, tags_for_ledger
from skipguide.runs.watch import Watch

_KEY_LENGTH = 16  # hex digits; 10^6 clips share one with a chance of 3e-8
_PER_JOB_FIELDS = ("prompt", "image", "seed", "device", "model")


@dataclass(frozen=True)
class ResolvedSetting:
    """A setting of a plan with everything filled in for its model."""

    setting: Setting
    complete: GenerationSettings  # everything filled in; with the prompt of the first video
    weights: dict[str, str]  # of the model
    words: PlainData | None = None  # `resolve.words_of_flags`; None if flags cannot say it


@dataclass(frozen=True)
class Job:
    """One video to make."""

    key: str
    setting: str  # its name
    generation: GenerationSettings  # complete, with prompt and seed
    image: Path | None = None
    latents: bool = False  # keep them
    prompt: str = ""  # the `prompt_digest`
    watch: Watch | None = None  # what else is kept of it


# (model, name of the setting, `variant_of`) -> the setting with what rows of prompts say over it.
Variants = Mapping[tuple[str, str, str], ResolvedSetting]


def job_key(
    surveyed: ResolvedSetting,
    prompt: Prompt,
    seed: int,
    image_sha256: str | None,
    versions: Mapping[str, str],
) -> str:
    """Return the name of a video: equal names mean equal frames (on one class of machine).

    It is a hash of the weights, the prompt, the content of the image, the seed, all settings, cpu
    or cuda, and the versions of the libraries; names of settings, files and folders play no part.
    """
    weights = (
        surveyed.weights
        if "sha256" in surveyed.weights
        else {**surveyed.weights, "model": surveyed.complete.base_model or _model_name(surveyed)}
    )
    content = {
        "weights": weights,
        "prompt": prompt.text,
        "image": image_sha256,
        "seed": seed,
        "setting": _key_content(surveyed),
        "device": str(surveyed.complete.device).partition(":")[0],
        "versions": {name: number for name, number in versions.items() if name != "python"},
    }
    return hashlib.sha256(to_json(content).encode()).hexdigest()[:_KEY_LENGTH]


def setting_content(complete: GenerationSettings) -> PlainData:
    """Return what the ledger keeps of complete settings, ready for JSON.

    Settings that are None are left out, so that a later version can add some.
    """
    dumped = complete.model_dump(mode="json", exclude_none=True)
    return {name: value for name, value in dumped.items() if name not in _PER_JOB_FIELDS}


def _key_content(surveyed: ResolvedSetting) -> PlainData:
    """Return the part of a key that tells settings apart.

    Guidance is in the words of flags where they can say it: that was the only spelling once, and
    clips that were made then keep their keys.
    """
    content = without_places(setting_content(surveyed.complete))
    words = surveyed.words or from_guidance(content["guidance"])
    if words is None:
        return content
    return {**{name: value for name, value in content.items() if name != "guidance"}, **words}


def _model_name(surveyed: ResolvedSetting) -> str:
    return surveyed.setting.generation.model


def build_jobs(
    plan: Plan,
    surveyed: Sequence[ResolvedSetting],
    versions: Mapping[str, str],
    variants: Variants | None = None,
) -> list[Job]:
    """Return all jobs of a plan, each once, by model, then prompt, then seed, which shares work.

    Args:
        variants: of the settings, for plans whose prompts have settings of their own.

    Raises:
        ValueError: if two settings are the same one.
    """
    images = {
        prompt.image: hash_file(prompt.image) for prompt in plan.prompts if prompt.image is not None
    }
    found = []
    for alike in _group_by_pipeline(surveyed):
        for prompt in plan.prompts:
            image = images.get(prompt.image) if prompt.image else None
            own = [_for_prompt(entry, prompt, variants or {}) for entry in alike]
            digest = prompt_digest(prompt, image)
            found += [
                Job(
                    job_key(entry, prompt, seed, image, versions),
                    entry.setting.name,
                    _fill_in_prompt(entry.complete, prompt, seed),
                    prompt.image,
                    plan.save_latents,
                    digest,
                    plan.watch,
                )
                for seed in plan.seeds_of(prompt)
                for entry in own
            ]
    return _deduplicate(found)


def _for_prompt(entry: ResolvedSetting, prompt: Prompt, variants: Variants) -> ResolvedSetting:
    """Return a setting with what the row of a prompt says over it."""
    if not prompt.settings:
        return entry
    found = variants[_model_name(entry), entry.setting.name, variant_of(prompt)]
    if "negative_prompt" not in prompt.settings:
        return found
    own = {"negative_prompt": prompt.settings["negative_prompt"]}
    return replace(found, complete=found.complete.model_copy(update=own))


def prompt_digest(prompt: Prompt, image_sha256: str | None) -> str:
    """Return what a ledger knows a prompt by: a hash of text, picture and settings of its own."""
    image = (
        None if prompt.image is None else {"image": prompt.image.name, "image_sha256": image_sha256}
    )
    content = [prompt.text, image, *([prompt.settings] if prompt.settings else [])]
    return hashlib.sha256(to_json(content).encode()).hexdigest()


def _group_by_pipeline(surveyed: Sequence[ResolvedSetting]) -> Iterator[list[ResolvedSetting]]:
    """Group the settings for which a worker holds the same pipeline."""
    loads = dict.fromkeys(entry.complete.load_key() for entry in surveyed)
    for load in loads:
        yield [entry for entry in surveyed if entry.complete.load_key() == load]


def _fill_in_prompt(complete: GenerationSettings, prompt: Prompt, seed: int) -> GenerationSettings:
    image = None if prompt.image is None else prompt.image.name
    return complete.model_copy(update={"prompt": prompt.text, "image": image, "seed": seed})


def _deduplicate(found: Sequence[Job]) -> list[Job]:
    """Make one job of images with equal content in several files."""
    jobs: dict[str, Job] = {}
    for job in found:
        other = jobs.setdefault(job.key, job)
        if other.setting != job.setting:
            raise ValueError(
                f"the settings of a plan must differ, but {other.setting!r} and {job.setting!r}"
                " are the same once the model's defaults and the rows of prompts are filled in."
                " Remove one."
            )
    return list(jobs.values())


# --- into the ledger ------------------------------------------------------------------------------


def register_jobs(
    ledger: Ledger, plan: Plan, surveyed: Sequence[ResolvedSetting], jobs: Sequence[Job]
) -> None:
    """Write the jobs of a plan into the ledger, and copy its images; existing jobs stay as they
    are.

    Raises:
        ValueError: if a setting has the name of another one that has videos.
        OSError: if an image cannot be copied.
    """
    kept = _copy_images(ledger, plan.prompts)
    with ledger.transaction():
        plan_id = ledger.get_or_insert_id(
            "plans", {"sha256": plan.sha256}, {"text": plan.text, "created": utc_now()}
        )
        settings = _register_settings(ledger, surveyed)
        prompts = dict(_register_prompt(ledger, prompt, kept) for prompt in plan.prompts)
        ledger.db.execute(
            "UPDATE jobs SET position = position + ?", (len(jobs),)
        )  # those of other plans come after
        for position, job in enumerate(jobs):
            setting = settings[job.generation.model, job.setting]
            prompt = prompts[job.prompt]
            ledger.db.execute(
                "INSERT INTO jobs(key, setting, prompt, seed, position, added) VALUES (?, ?, ?, ?,"
                " ?, ?) ON CONFLICT(key) DO UPDATE SET position = excluded.position, setting ="
                " excluded.setting",
                (job.key, setting, prompt, job.generation.seed, position, utc_now()),
            )
            ledger.db.execute("INSERT OR IGNORE INTO plan_jobs VALUES (?, ?)", (plan_id, job.key))


def register_prompts(ledger: Ledger, prompts: Sequence[Prompt]) -> list[int]:
    """Write prompts into the ledger, and copy their images; return the id of each.

    Prompts that differ in their seeds alone have one id.

    Raises:
        OSError: if an image cannot be copied.
    """
    kept = _copy_images(ledger, prompts)
    with ledger.transaction():
        return [_register_prompt(ledger, prompt, kept)[1] for prompt in prompts]


def _copy_images(ledger: Ledger, prompts: Sequence[Prompt]) -> dict[Path, str]:
    """Copy the images of prompts into the run; return the sha256 of each."""
    images = dict.fromkeys(prompt.image for prompt in prompts if prompt.image is not None)
    return {image: files.copy_image(ledger.path.parent, image) for image in images}


def _register_settings(
    ledger: Ledger, surveyed: Sequence[ResolvedSetting]
) -> dict[tuple[str, str], int]:
    found = {}
    names = {(_model_name(entry), entry.setting.name) for entry in surveyed}
    for entry in surveyed:
        model = ledger.get_or_insert_id(
            "models", {"name": _model_name(entry), "weights": to_json(entry.weights)}
        )
        _claim_setting_name(
            ledger, model, entry, {name for of, name in names if of == _model_name(entry)}
        )
        new = {
            "given": to_json(entry.setting.given),
            "complete": to_json(setting_content(entry.complete)),
        }
        found[_model_name(entry), entry.setting.name] = ledger.get_or_insert_id(
            "settings", {"model": model, "name": entry.setting.name}, new
        )
    return found


def _claim_setting_name(
    ledger: Ledger, model: int, entry: ResolvedSetting, names: set[str]
) -> None:
    """Let a renamed setting keep its row, and a changed one without videos give up its name.

    Raises:
        ValueError: if a changed setting has videos.
    """
    name, content = entry.setting.name, setting_content(entry.complete)
    rows = {
        row["name"]: {**row, "complete": upgrade_settings(json.loads(row["complete"]))}
        for row in ledger.rows("SELECT * FROM settings WHERE model = ?", model)
    }
    holder = rows.get(name)
    same = without_places(content)
    if holder is not None and without_places(holder["complete"]) != same:
        made = ledger.rows(
            "SELECT count(*) AS n FROM jobs WHERE setting = ? AND status = 'done'", holder["id"]
        )[0]["n"]
        if made:
            raise ValueError(
                f"a setting must keep its parameters within a run, but {name!r} was"
                f" {_describe_changes(holder, content)}, and it has {format_count(made, 'clip')}"
                " already. Give the new one another name, as in --setting 'NAME steps=20' or name:"
                " NAME in the plan, or choose another folder with --out."
            )
        ledger.db.execute("DELETE FROM jobs WHERE setting = ?", (holder["id"],))
        ledger.db.execute("DELETE FROM settings WHERE id = ?", (holder["id"],))
        holder = None
    former = next(
        (
            row
            for row in rows.values()
            if without_places(row["complete"]) == same and row["name"] not in names
        ),
        None,
    )
    if holder is None and former is not None:
        ledger.db.execute("UPDATE settings SET name = ? WHERE id = ?", (name, former["id"]))


def _describe_changes(holder: ReadOnlyData, content: ReadOnlyData) -> str:
    then = holder["complete"]
    changed = [name for name in {**then, **content} if then.get(name) != content.get(name)]
    return ", ".join(
        f"{name} = {_show(then.get(name))}, now {_show(content.get(name))}" for name in changed
    )


def _show(value: Any) -> str:
    """Return a value of a setting for people: hashes are cut."""
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_show(part)}" for name, part in value.items())
    if isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
        return " and ".join(map(_show, value))
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return f"{value[:8]}…"
    return repr(value)


def _register_prompt(ledger: Ledger, prompt: Prompt, kept: Mapping[Path, str]) -> tuple[str, int]:
    """Return the digest of a prompt and its id in the ledger."""
    content = None if prompt.image is None else kept[prompt.image]
    image = {} if prompt.image is None else {"image": prompt.image.name, "image_sha256": content}
    digest = prompt_digest(prompt, content)
    new = {"text": prompt.text, **image, "tags": to_json(tags_for_ledger(prompt))}
    return digest, ledger.get_or_insert_id("prompts", {"sha256": digest}, new)
