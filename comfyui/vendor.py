"""Build `_skipguide`, the pack's own copy of what it uses of the library: `make comfyui`.

The pack must work where it is copied to, without the library and without diffusers. What ROOTS name
is copied with all that it imports of the library, and the imports are made relative.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

PACK = Path(__file__).resolve().parent
BUILT = PACK / "_skipguide"
SOURCE = PACK.parent / "src" / "skipguide"
ROOTS = (
    "method/*.py", "families/presets.py", "families/blocks.py", "weak/patching.py",
    "tuning/scan/layer_map.py", "tuning/scan/levels.py", "tuning/scan/quantities.py",
)  # fmt: skip
DATA = ("families/presets.toml",)
HEADER = "# Built by `make comfyui` from src/skipguide/{name}; do not edit.\n"
_IMPORT = re.compile(r"^(\s*)from skipguide\.", re.MULTILINE)


def built_files() -> dict[str, str]:
    """Return the text of every file of `_skipguide`, by its path within it."""
    names = sorted(_with_imports(path for root in ROOTS for path in SOURCE.glob(root)))
    rooms = {f"{room}/__init__.py" for name in names for room in _rooms(name)}
    found = {"__init__.py": '"""The part of the library skipguide that the pack uses."""\n'}
    for name in sorted({*names, *rooms, *DATA}):
        text = (SOURCE / name).read_text(encoding="utf-8")
        found[name] = HEADER.format(name=name) + _IMPORT.sub(
            rf"\1from .{'.' * name.count('/')}", text
        )
    return found


def _rooms(name: str) -> list[str]:
    """Return the folders in which a module lies."""
    return [room.as_posix() for room in Path(name).parents if room.name]


def _with_imports(paths: Iterable[Path]) -> set[str]:
    """Return the names of these modules and of all that they import of the library."""
    found: set[str] = set()
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        name = path.relative_to(SOURCE).as_posix()
        if name not in found:
            found.add(name)
            waiting.extend(_imports(path))
    return found


def _imports(path: Path) -> Iterator[Path]:
    """Yield the modules of the library that a module imports; each lies in a room."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skipguide."):
            module = SOURCE.joinpath(*str(node.module).split(".")[1:])
            inside = [module / f"{alias.name}.py" for alias in node.names]
            yield from inside if module.is_dir() else [module.with_suffix(".py")]


def main() -> None:
    """Write the files, and remove those of an earlier build."""
    shutil.rmtree(BUILT, ignore_errors=True)
    for name, text in built_files().items():
        path = BUILT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
