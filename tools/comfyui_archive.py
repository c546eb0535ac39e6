"""Write the node pack as an archive that is unpacked into ComfyUI/custom_nodes.

    python tools/comfyui_archive.py dist

Equal files give equal bytes, so that a release can be made again and compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "skipguide"  # in custom_nodes
NOT_FOR_USERS = ("vendor.py",)
_TIME = (1980, 1, 1, 0, 0, 0)  # the first that the format has


def packed_files() -> dict[str, Path]:
    """Return the files of the pack that git knows, by their names in the archive."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "comfyui"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    names = [name.removeprefix("comfyui/") for name in sorted(filter(None, listed))]
    return {
        f"{FOLDER}/{name}": ROOT / "comfyui" / name for name in names if name not in NOT_FOR_USERS
    }


def write(folder: Path) -> Path:
    """Write the archive into a folder, under a temporary name first, and return its path."""
    text = (ROOT / "comfyui" / "pyproject.toml").read_text(encoding="utf-8")
    path = folder / f"comfyui-skipguide-{tomllib.loads(text)['project']['version']}.zip"
    part = path.with_name(f".{path.name}.part")
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in packed_files().items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, file.read_bytes())
    os.replace(part, path)
    return path


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
