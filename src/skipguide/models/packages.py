"""Compare the packages of this machine with what this one claims to need, by their metadata."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import platform
import sys
from collections.abc import Mapping
from importlib import metadata

from skipguide.files.text import first_line
from skipguide.method.protocols import PlainData

DISTRIBUTION = "skipguide"
# What an optional package is for; those that one family needs are in its row of FAMILIES.
PURPOSES = {
    "gguf": "single files in GGUF", "peft": "LoRA", "optimum-quanto": "--quantize by quanto",
    "torchao": "--quantize by torchao", "bitsandbytes": "--quantize nf4 by bitsandbytes",
    "kernels": "attention kernels of the hub", "xformers": "--attention xformers",
    "flash-attn": "--attention flash", "sageattention": "--attention sage",
    "fastapi": "the studio", "uvicorn": "the studio",
    "cryptography": "the studio for raters, with TLS", "segno": "the QR code of the studio",
    "matplotlib": "figures of paper report", "pyarrow": "Parquet", "ray": "sweeps on Ray",
    "tensorboard": "--track tensorboard", "mlflow": "--track mlflow", "wandb": "--track wandb",
}  # fmt: skip
# Metadata alone does not show that a library of these can be loaded.
IMPORTED = ("torch", "transformers", "diffusers", "av", "safetensors")


def check_required() -> list[PlainData]:
    """Return a row for each package that this one needs, Python first.

    Returns:
        `name`, `needs` (as in ">=2.6"), `version` (None if missing) and `state`: "ok", "missing",
        "older", "newer", or "broken: ..." with the error of its import.
    """
    needed = {name: needs for name, needs, extra in _requirements() if extra is None}
    needed = {**dict.fromkeys(IMPORTED, ""), **needed}
    rows = [_python_row(), *(_row(name, needed[name]) for name in sorted(needed))]
    for row in rows:
        if row["state"] == "ok" and row["name"] in IMPORTED:
            row["state"] = _import_state(row["name"])
    return rows


def check_optional() -> list[PlainData]:
    """Return a row for each optional package, with what it is `for` and how to `install` it."""
    listed: dict[str, tuple[str, str]] = {}
    # "dev", which is no extra of users, and what every user has count only where they are alone.
    for name, needs, extra in sorted(_requirements(), key=lambda row: row[2] in (None, "dev")):
        listed.setdefault(name, (needs, "" if extra == "dev" else extra or ""))
    rows = []
    for name, purpose in PURPOSES.items():
        needs, extra = listed.get(name, ("", ""))
        package = f"'{DISTRIBUTION}[{extra}]'" if extra else name
        rows.append({**_row(name, needs), "for": purpose, "install": f"pip install {package}"})
    return rows


def _python_row() -> PlainData:
    needs = ""
    with contextlib.suppress(metadata.PackageNotFoundError):  # run from its source
        needs = metadata.metadata(DISTRIBUTION)["Requires-Python"] or ""
    version = platform.python_version()
    return {"name": "python", "needs": needs, "version": version, "state": _state(version, needs)}


def _requirements() -> list[tuple[str, str, str | None]]:
    """Return (name, versions, extra) of all that the metadata of this package lists.

    It is empty without metadata, or without the package that reads it, which accelerate brings.
    """
    try:
        from packaging.requirements import Requirement

        listed = metadata.requires(DISTRIBUTION) or []
    except (ImportError, metadata.PackageNotFoundError):
        return []
    found = []
    for text in listed:
        requirement = Requirement(text)
        marker = str(requirement.marker or "")
        extra = marker.partition("extra == ")[2].strip("\"'") or None
        if extra is None and requirement.marker and not requirement.marker.evaluate():
            continue
        found.append((requirement.name, str(requirement.specifier), extra))
    return found


def _row(name: str, needs: str) -> PlainData:
    version = _version_of(name)
    state = "missing" if version is None else _state(version, needs)
    return {"name": name, "needs": needs, "version": version, "state": state}


def is_installed(module: str) -> bool:
    """Return whether a package is there; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # of the package around it
        return False


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except Exception:  # missing, or metadata that cannot be read
        return None


def _state(version: str, needs: str) -> str:
    try:
        from packaging.specifiers import SpecifierSet
        from packaging.version import InvalidVersion, Version
    except ImportError:
        return "ok"
    try:
        found = Version(version)
    except InvalidVersion:
        return f"broken: {version!r} is no version"
    for specifier in SpecifierSet(needs):
        if not specifier.contains(found, prereleases=True):
            return "older" if specifier.operator in (">=", ">", "==", "~=") else "newer"
    return "ok"


def _import_state(name: str) -> str:
    try:
        importlib.import_module(name)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"broken: {first_line(error)}"
    return "ok"


def describe_system() -> Mapping[str, str]:
    """Return system, machine and the interpreter's kind."""
    kind = "a virtual environment" if sys.prefix != sys.base_prefix else "the system's Python"
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}, {kind}",
    }
