"""Which figures can be drawn from what there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from skipguide.paper import experiments, plots
from skipguide.paper.analysis import Results
from skipguide.paper.figure2 import Alignment
from skipguide.paper.published import PublishedResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = ("figure-4-cfg", "figure-4-stg", "figure-4-stg-high")
MAPS = ("map", "map-without-cfg")


class Figures:
    """The figures of all models: those that can be drawn, and those that are there already."""

    def __init__(
        self, folder: Path, results: Mapping[str, Results], alignments: Mapping[str, Alignment]
    ):
        self.folder, self.results, self.alignments = folder, results, alignments

    def names(self) -> set[str]:
        """Return the file names that a page can show."""
        kept = {
            path.name
            for model, found in self.results.items()
            if isinstance(found, PublishedResults)
            for path in self.folder.glob(f"{model}-*.png")
        }
        return kept | {name for name, _ in self._drawable()}

    def draw(self) -> list[Path]:
        """Write the figures that can be drawn."""
        written = []
        for name, drawn in self._drawable():
            plots.save(drawn(), self.folder / name)
            written.append(self.folder / name)
        return written

    def _drawable(self) -> Iterator[tuple[str, Callable[[], Figure]]]:
        """Yield the file names of the figures that can be drawn, and functions that draw them."""
        for model, found in self.alignments.items():
            yield f"{model}-cosines.png", lambda m=model, a=found: plots.plot_cosines(m, a)
        for model, results in self.results.items():
            known = {one.name: one for one in experiments.experiments(model)}
            for name in MAPS:
                if plots.count_cells(results, known[name]):
                    yield (
                        f"{model}-{name}.png",
                        lambda r=results, one=known[name]: plots.plot_layers(r, one),
                    )
            lines = [known[name] for name in SCALES]
            if plots.has_scales(results, lines):
                yield f"{model}-scales.png", lambda r=results, k=lines: plots.plot_scales(r, k)
            if not isinstance(results, PublishedResults) and plots.finished_strips(results):
                yield f"{model}-strips.png", lambda r=results: plots.plot_strips(r)
