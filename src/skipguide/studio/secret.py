"""The secret from which a studio draws its tokens and the names of a blind test.

It outlives the server, so that a link goes on working after a restart. It lies with the user and
not in the run, because runs are passed on, and whoever made one would know the tokens of whoever
shows it. docs/decisions/073-after-a-restart.md.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from skipguide.studio.access import derive_key

_LENGTH = 64  # hexadecimal digits


def secret_path() -> Path:
    """Return where the secret of this user is kept."""
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        root = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    except RuntimeError as error:  # a user without a home
        raise OSError(str(error)) from None
    return root / "skipguide" / "studio-secret"


def find_secret(folder: Path) -> tuple[bytes, str | None]:
    """Return the secret of a run, and None; where none can be kept, a passing one, and why."""
    try:
        return load_secret(folder), None
    except OSError as error:
        return secrets.token_bytes(_LENGTH // 2), (
            f"The links of this studio end with it, because their secret cannot be kept: {error}."
            " Pass --token to have the same ones at every start."
        )


def load_secret(folder: Path) -> bytes:
    """Return the secret of a run: the same at every start, for one user and one folder.

    Raises:
        ValueError: if what is kept is not a secret, or others can read it.
        OSError: if none can be kept.
    """
    path = secret_path()
    if not os.path.lexists(path):
        _write_once(path, secrets.token_hex(_LENGTH // 2))
    return derive_key(_read(path), f"run {folder.resolve()}")


def _read(path: Path) -> bytes:
    text = path.read_text("ascii", errors="replace").strip()
    if is_private(path) and re.fullmatch(f"[0-9a-f]{{{_LENGTH}}}", text):
        return bytes.fromhex(text)
    raise ValueError(
        f"the secret of the studio must be {_LENGTH} digits of 0-9 and a-f in a file that nobody"
        f" else can read, but {path} is not. Remove it: a new one is made, and raters need a new"
        " link."
    )


def is_private(path: Path) -> bool:
    """Return whether nobody but the user can read a file, as far as the system knows."""
    return os.name == "nt" or path.stat().st_mode & 0o077 == 0


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only the user can read, whole or not at all, in the place of another.

    Raises:
        OSError: if that cannot be done.
    """
    with _private_part(path, content) as part:
        os.replace(part, path)


def _write_once(path: Path, text: str) -> None:
    """Write a file that only the user can read, whole or not at all; what is there stays."""
    # Another studio may have started at the same moment.
    with _private_part(path, text.encode()) as part, contextlib.suppress(FileExistsError):
        os.link(part, path)


@contextlib.contextmanager
def _private_part(path: Path, content: bytes) -> Iterator[Path]:
    """Write a file beside another that only the user can read, and remove it in the end."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        if not is_private(part):  # a disk that knows no users
            raise OSError(f"{path.parent} keeps no file from others")
        yield part
    finally:
        part.unlink(missing_ok=True)
