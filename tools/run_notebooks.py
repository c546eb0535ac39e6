"""Run the notebooks in docs/notebooks and keep their outputs: `make notebooks`.

They run in a folder of their own, so that nothing of this machine is in them."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import warnings
from pathlib import Path

from docsite import notebooks

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"


def main(names: list[str]) -> None:
    """Run some of them, or all."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            notebook = notebooks.read(path)
            with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
                notebooks.run(notebook)
            notebooks.write(path, notebook)
            print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
