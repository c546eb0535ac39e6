"""The figures of docs/why.md. One network is drawn, and all are averaged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from skipguide.method.protocols import PlainData
from skipguide.paper import plane, plots, why
from skipguide.paper.plane import Network, Tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Tensor = torch.Tensor
EARLY, LATE = 0, 7  # the layers that are drawn: the first and the last
WINDOW = {"xlim": (-2.15, 0.75), "ylim": (-1.5, 1.4)}
SHOWN = {  # title of a panel: the name of its setting
    "real points": "real",
    "no guidance": "none",
    "CFG, g = 2": "cfg-2",
    "Autoguidance, s = 1": "auto-1",
    f"STG, layer {EARLY}, s = 1": f"stg-{EARLY}-1",
    f"STG, layer {LATE}, s = 1": f"stg-{LATE}-1",
}
FIELDS = {
    "CFG": "cfg", "Autoguidance": "auto", f"STG, layer {EARLY}": f"stg-{EARLY}",
    f"STG, layer {LATE}": f"stg-{LATE}",
}  # fmt: skip
FIELD_TIME = 0.1  # the noise level of the fields


def write_figures(found: why.Found, nets: tuple[Network, Network], docs: Path) -> list[Path]:
    """Draw everything into why/ of a folder; returns the files."""
    figures = {
        "samples": plot_samples(found, nets),
        "fields": plot_fields(nets),
        "scales": plot_scales(found),
    }
    paths = [docs / "why" / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        plots.save(figure, path)
    return paths


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, without the state and windows of pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


# --- samples --------------------------------------------------------------------------------------


def plot_samples(found: why.Found, nets: tuple[Network, Network], count: int = 1500) -> Figure:
    """Plot one class under each way of guidance; strays are crosses."""
    trees, draw = plane.world(), torch.Generator().manual_seed(5)
    judge = why.Judge(trees, 0)
    noise = [torch.randn(count, 2, generator=draw) for _ in trees]
    figure = new_figure(12.5, 9.2)
    for axes, (title, name) in zip(figure.subplots(2, 3).flat, SHOWN.items(), strict=True):
        if name == "real":
            x = trees[0].sample(count, draw)
        else:
            with torch.no_grad():
                x = why.sample_classes(nets, noise, why.settings()[name])[0]
        _plot_points(axes, judge, x)
        strays, coverage = (found.value(name, one).value for one in ("strays", "coverage"))
        axes.set_title(f"{title}\n{strays:.0%} off the tree, {coverage:.0%} covered", fontsize=11)
    figure.tight_layout()
    return figure


def _plot_points(axes: Axes, judge: why.Judge, x: Tensor) -> None:
    _plot_trees(axes, judge)
    stray = judge.is_stray(0, x)
    axes.scatter(*x[~stray].T, s=4, color="0.15", linewidths=0)
    axes.scatter(*x[stray].T, s=14, color="tab:red", marker="x", linewidths=0.8)


def _plot_trees(axes: Axes, judge: why.Judge) -> None:
    """Draw real points of both classes, pale: the one that is asked for, and the other."""
    for real, colour in zip(judge.real, ("#a9cbe8", "#f3d9b5"), strict=True):
        axes.scatter(*real.T, s=7, color=colour, linewidths=0, zorder=0)
    axes.set(aspect="equal", xticks=[], yticks=[], **WINDOW)


# --- fields ---------------------------------------------------------------------------------------


def plot_fields(nets: tuple[Network, Network]) -> Figure:
    """Plot where each way pushes a point at one noise level, and whether that is uphill."""
    trees = plane.world()
    judge = why.Judge(trees, 0)
    figure = new_figure(15, 4.4)
    panels = figure.subplots(1, len(FIELDS), gridspec_kw={"wspace": 0.03})
    grid = _grid(30)
    with torch.no_grad():
        _, pushes = why._pushes(nets, why.State(grid, FIELD_TIME, torch.zeros(len(grid)).long()))
    images = []
    for axes, (title, name) in zip(panels, FIELDS.items(), strict=True):
        _plot_trees(axes, judge)
        images.append(_plot_field(axes, trees[0], grid, -pushes[name]))
        axes.set_title(title)
    bar = figure.colorbar(images[0], ax=list(panels), shrink=0.75, pad=0.01, ticks=[-1, 0, 1])
    bar.ax.set_yticklabels(["away from the tree", "along it", "to the tree"])
    return figure


def _grid(count: int) -> Tensor:
    x, y = (torch.linspace(*WINDOW[side], count) for side in ("xlim", "ylim"))
    return torch.cartesian_prod(x, y)


def _plot_field(axes: Axes, tree: Tree, x: Tensor, push: Tensor) -> Any:
    """Draw arrows near the tree, coloured by the cosine of push and exact score."""
    score = tree.score(x, FIELD_TIME)
    density = tree.log_density(x, FIELD_TIME)
    near = density > density.max() - 5.5
    cosine = torch.nn.functional.cosine_similarity(push, score)[near]
    arrows = torch.nn.functional.normalize(push[near]) * push[near].norm(dim=1, keepdim=True) ** 0.5
    return axes.quiver(
        *x[near].T, *arrows.T, cosine, cmap="coolwarm_r", clim=(-1, 1), angles="xy", width=0.006,
        scale=14,
    )  # fmt: skip


# --- along the scale ------------------------------------------------------------------------------

PANELS = {
    "strays": "samples off the tree (lower is better)",
    "coverage": "tree covered (higher is better)",
    "other": "samples in the other class",
}


def plot_scales(found: why.Found) -> Figure:
    """Plot three measures along the scale of each way of guidance, layers from pale to black."""
    figure = new_figure(15, 4.6)
    panels = figure.subplots(1, 3)
    for axes, (measure, title) in zip(panels, PANELS.items(), strict=True):
        axes.axhline(100 * found.value("real", measure).value, color="tab:blue", ls=":", zorder=0)
        axes.text(2.25, 100 * found.value("real", measure).value, "real points", color="tab:blue",
                  va="bottom", fontsize=9)  # fmt: skip
        _plot_line(axes, found, measure, "cfg", dict(color="tab:orange", lw=3, label="CFG"))
        _plot_line(
            axes,
            found,
            measure,
            "auto",
            dict(color="tab:green", lw=3, ls="--", label="Autoguidance"),
        )
        for layer in why.LAYERS:
            shade = f"{0.8 - 0.8 * layer / (len(why.LAYERS) - 1):.2f}"
            style = dict(color=shade, lw=1.5, label=f"STG, layer {layer}")
            _plot_line(axes, found, measure, f"stg-{layer}", style)
        axes.set(title=title, xlabel="scale: s, or g - 1 of CFG", xlim=(0, 3.1))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    return figure


def _plot_line(axes: Axes, found: why.Found, measure: str, way: str, style: PlainData) -> None:
    kind = way.partition("-")[0]
    scales = {"cfg": why.CFG, "auto": why.AUTO, "stg": why.STG}[kind]
    values = [found.value(name, measure) for name in ("none", *(f"{way}-{s:g}" for s in scales))]
    places = [0.0, *(s - 1 if kind == "cfg" else s for s in scales)]
    axes.plot(places, [100 * one.value for one in values], marker="o", ms=3, **style)
