"""What pyproject.toml claims to work with is what constraints-oldest.txt installs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


def versions(lines: Iterable[str], operator: str) -> dict[str, Version]:
    """The version of each requirement that stands behind this operator."""
    found = {}
    for requirement in map(Requirement, lines):
        for bound in requirement.specifier:
            if bound.operator == operator:
                found[requirement.name] = Version(bound.version)
    return found


def test_the_oldest_versions_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [
        line for name in ("studio", "report") for line in project["optional-dependencies"][name]
    ]
    claimed = versions([*project["dependencies"], *extras], ">=")
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    oldest = versions([line for line in lines if line and not line.startswith("#")], "==")
    assert claimed.items() <= oldest.items()
