"""Names of files for videos and pictures: from their prompts, and no two prompts share one."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from skipguide.files.text import symbol_name, to_ascii
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import PlainData, ReadOnlyData

MAX_NAME = 60, 160  # characters, bytes: a file system takes 255 bytes, suffixes included
_DIGEST = 6  # hex digits behind a name that another prompt has


@dataclass(frozen=True)
class Subject:
    """The text after which a file is named, and what tells it from others of that name."""

    settings: GenerationSettings  # as they were given
    row: ReadOnlyData | None = None  # the settings that its prompt has of its own

    def content(self) -> PlainData:
        """Return what tells the prompts of files apart; the seed is in their names anyway."""
        return {
            "prompt": self.settings.prompt,
            "image": self.settings.image,
            "row": {**(self.row or {})},
        }

    def is_of(self, record: ReadOnlyData) -> bool:
        """Return whether a record is of a video of the same prompt, however it was made."""
        made = next(iter(record.get("runs") or []), record).get("settings") or {}
        image = self.settings.image and Path(self.settings.image).name
        simple = {name: value for name, value in (self.row or {}).items() if name in made}
        return (
            (made.get("prompt"), made.get("image")) == (self.settings.prompt, image)
            and made.get("seed") == self.settings.seed
            and all(made[name] == value for name, value in simple.items())
        )  # fmt: skip


def file_name(settings: GenerationSettings) -> str:
    """Return a name for the video without suffix: from its prompt, or else from its image's name.

    Latin letters are written without their accents, others as they are, emoji as their names.
    """
    title = Path(settings.image or "").stem if settings.prompt is None else settings.prompt
    return f"{plain_name(title) or 'video'}-{settings.seed}"


def plain_name(title: str, keep: str = "") -> str:
    """Return a text as a part of file names: small letters, digits and - between words.

    Args:
        keep: other characters that stay.
    """
    composed = unicodedata.normalize("NFC", title)
    plain = "".join(letter if letter in keep else _plain_letter(letter) for letter in composed)
    words = re.sub(r"-+", "-", plain)[: MAX_NAME[0]]
    return words.encode()[: MAX_NAME[1]].decode(errors="ignore").strip("-.")


def _plain_letter(letter: str) -> str:
    if plain := to_ascii(letter).lower():
        return re.sub(r"[^a-z0-9]", "-", plain)
    if name := symbol_name(letter):
        return f"-{name.replace(' ', '-')}-"
    category = unicodedata.category(letter)
    if category in ("Cf", "Sk") or 0xFE00 <= ord(letter) <= 0xFE0F:  # joiners, variants, skins
        return ""
    return letter.lower() if category[0] in "LMN" else "-"


def file_system_key(name: str) -> str:
    """Return what is equal for names that some file system takes for the same.

    Systems differ in whether they tell cases and ways to write accents apart.
    """
    return unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).upper().casefold())


def choose_names(
    subjects: Iterable[Subject], folder: Path, suffixes: Sequence[str] = (".mp4",)
) -> list[str]:
    """Return a name without suffix for each video, each another one, in this folder.

    The first prompt of a name has it alone; others of that name have a hash of their prompt behind
    it, and so has one whose name a file of another prompt has in the folder. So each prompt keeps
    its name however often and in whatever order the command is repeated.
    """
    found: list[str] = []
    taken: set[str] = set()
    for subject in subjects:
        plain = file_name(subject.settings)
        free = file_system_key(plain) not in taken and not any(
            _is_of_another(folder / f"{plain}{suffix}", subject) for suffix in suffixes
        )
        name = plain if free else f"{plain}-{_digest(subject)}"
        taken.add(file_system_key(name))
        found.append(name)
    return found


def _digest(subject: Subject) -> str:
    content = json.dumps(subject.content(), sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:_DIGEST]


def _is_of_another(path: Path, subject: Subject) -> bool:
    """Return whether a file is a video of another prompt; one without a record is nobody's."""
    if not path.is_file():
        return False
    record = read_record(path)
    return record is not None and not subject.is_of(record)


def read_record(path: Path) -> PlainData | None:
    """Return the record of a video; None if it has none that can be read."""
    from skipguide.files import clips

    try:
        return clips.read_record(path)
    except ValueError:
        return None
