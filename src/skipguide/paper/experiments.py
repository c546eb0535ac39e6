"""The experiments as data: the rows of each model for each table and figure of the paper.

A study holds what differs between the models; `experiments` builds the rows from it. To add a row,
write it here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from skipguide.lab import svd
from skipguide.method.terms import STG
from skipguide.paper import models
from skipguide.paper.rows import Row

Layer = int | str
SKIPS = ("residual", "attention")
NO_LIMIT = 1 << 20  # clips: no limit
MAP_SCALE = 1.0  # of the layer map, where every push is a tenth as long as c
# beside CFG that is too short to tell layers apart: three tenths there, two where CFG is low
RAISED_SCALE, RAISED_LOW_SCALE = 3.0, 2.0


@dataclass(frozen=True)
class Study:
    """A model's part of the experiments.

    Args:
        guidance_scale: g of the tables, the model's own.
        low: g of the first point of Figure 4's lines, where there is quality to gain.
        layer: the counterpart of the layer that the paper uses for this model.
        layers: all of them, for the layer map.
        cfg_scales: of Figure 4.
        stg: what Tables 1 and 2 have: "residual", "attention", or "axes", a term for space and one
            for time.
        axes: whether attention is divided into space and time, so that there is a Table 4.
        cfg_replacements: layers and skips of STG in place of CFG, where the layer map without CFG
            shows a gain.
        other_place_rows: rows to compare with CFG that skip at the paper's place in the network
            instead of at `layer`.
        lines: at most so many clips per row of Figure 4.
        cells: at most so many clips per row of the layer map.
    """

    guidance_scale: float
    low: float
    layer: Layer
    layers: tuple[Layer, ...]
    cfg_scales: tuple[float, ...]
    stg: str = "attention"
    axes: bool = True
    cfg_replacements: tuple[tuple[Layer, str], ...] = ()
    other_place_rows: tuple[Row, ...] = ()
    lines: int = NO_LIMIT
    cells: int = 256


STG_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
CFG_REPLACEMENT_SCALES = (1.0, 2.0, 4.0)  # of matched length
SELECTION_CLIPS = 128  # prompts
FIGURE3_SCALES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)  # of Figure 3
# the paper's scales; the last is its code's for SVD
RESIDUAL, ATTENTION, SPATIAL, TEMPORAL = (1.0, 2.0, 2.0, 0.5)
# phi of its code for SVD; in a row of its own, because it changes clips more than a weak push does
RESCALE = 0.7


def _axis_terms(layer: Layer) -> tuple[STG, STG]:
    spatial, temporal = (
        STG((layer,), scale, "attention", axis=axis)
        for axis, scale in (("spatial", SPATIAL), ("temporal", TEMPORAL))
    )
    return spatial, temporal


def _svd_middle_rows() -> tuple[Row, ...]:
    """Return rows at up:0, as in the paper; at 8 x 8 latents skipping the middle does little."""
    row = Row(svd.GUIDANCE_SCALE, _axis_terms("up:0"))
    return row, replace(row, rescale=RESCALE)


STUDIES = {
    "lab-mochi": Study(
        4.5, 2.0, 5, tuple(range(12)), (1.0, 2.0, 3.0, 4.5, 6.0, 8.0), stg="residual", axes=False,
        cfg_replacements=((8, "residual"), (4, "residual")),
    ),
    "lab-svd": Study(
        svd.GUIDANCE_SCALE, 2.0, "up:2",
        ("down:0", "down:1", "mid:0", "up:0", "up:1", "up:2", "up:3"),
        (1.0, 2.0, 3.0, 5.0, 7.0), stg="axes", other_place_rows=_svd_middle_rows(), lines=256,
        cells=128,
    ),
    "lab-opensora": Study(
        4.5, 2.0, 3, tuple(range(8)), (1.0, 2.0, 3.0, 4.5, 7.0, 10.0),
        cfg_replacements=((3, "residual"),), lines=512,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """Rows to compare with the first of them, on the same prompts from the same noise.

    Args:
        most: clips at most, where there are many rows.
        first: number of the first prompt that counts, where the earlier ones chose the rows.
        whole: whether all its clips come before anything else, because others need them.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    most: int = NO_LIMIT
    first: int = 0
    whole: bool = False


def experiments(model: str) -> tuple[Experiment, ...]:
    """Return the experiments of one model, by priority."""
    study = STUDIES[model]
    cfg = Row(study.guidance_scale)
    paper = _paper_row(study, cfg)
    found = [
        Experiment("reference", "Real clips", (Row(source="reference"),), whole=True),
        Experiment("ceiling", "Ceiling", (Row(source="real"), Row(source="autoencoder"))),
        Experiment("tables-1-2", "Tables 1 and 2: CFG against STG", (cfg, paper)),
        Experiment(
            "table-3", "Table 3: STG-R against STG-A", (cfg, *_residual_and_attention(study, cfg))
        ),
        Experiment("table-4", "Table 4: in space, in time, and Eq. 21", _axis_rows(study, cfg)),
        Experiment(
            "instead",
            "STG in the place of CFG",
            _cfg_replacement_rows(study, cfg),
            first=SELECTION_CLIPS,
        ),
        Experiment(
            "elsewhere",
            "The paper's place in the network",
            (cfg, *study.other_place_rows),
            most=256,
        ),
        Experiment(
            "figure-4-cfg", "Figure 4: along the CFG scale", _cfg_scale_rows(study), study.lines
        ),
        Experiment(
            "figure-4-stg",
            "Figure 4: along the STG scale",
            _scale_rows(Row(study.low), paper),
            study.lines,
        ),
        Experiment(
            "figure-4-stg-high",
            "Along the STG scale, from the model's own CFG",
            _scale_rows(cfg, paper),
            study.lines,
        ),
        Experiment("map", "The layer map", _layer_map_rows(study, cfg), study.cells),
        Experiment(
            "map-without-cfg",
            "The layer map without CFG",
            _layer_map_rows(study, Row(1.0)),
            study.cells,
        ),
    ]
    return tuple(experiment for experiment in found if len(experiment.rows) > 1 or experiment.whole)


def raised_maps(model: str) -> tuple[Experiment, ...]:
    """Return layer maps with longer pushes, which are made only where they are named.

    They are the exhaustive search that docs/tune.md holds `skipguide tune` against; the report of
    the paper does not have them.
    """
    study = STUDIES[model]
    return tuple(
        Experiment(name, title, _layer_map_rows(study, Row(guidance_scale), scale), most=256)
        for name, title, guidance_scale, scale in (
            ("map-raised", "The layer map with longer pushes", study.guidance_scale, RAISED_SCALE),
            ("map-low", "The layer map beside low CFG", study.low, RAISED_LOW_SCALE),
        )
    )


def figure3_rows(model: str) -> tuple[Row, ...]:
    """Return the rows of Figure 3: the STG of Tables 1 and 2 over a range of scales."""
    study = STUDIES[model]
    cfg = Row(study.guidance_scale)
    return tuple(_with_scale(_paper_row(study, cfg), scale) for scale in FIGURE3_SCALES)


def cost_rows(model: str) -> tuple[Row, ...]:
    """Return CFG, the STG of Tables 1 and 2, and the same as a full extra pass."""
    study = STUDIES[model]
    cfg = Row(study.guidance_scale)
    paper = _paper_row(study, cfg)
    return cfg, paper, replace(paper, share_prefix=False)


def _paper_row(study: Study, cfg: Row) -> Row:
    """Return the row that Tables 1 and 2 call STG."""
    if study.stg == "axes":
        return replace(cfg, terms=_axis_terms(study.layer))
    residual, attention = _residual_and_attention(study, cfg)
    return residual if study.stg == "residual" else attention


def _residual_and_attention(study: Study, cfg: Row) -> tuple[Row, Row]:
    residual = STG((study.layer,), RESIDUAL)
    attention = STG((study.layer,), ATTENTION, "attention")
    return replace(cfg, terms=(residual,)), replace(cfg, terms=(attention,))


def _axis_rows(study: Study, cfg: Row) -> tuple[Row, ...]:
    if not study.axes:
        return (cfg,)
    both = replace(cfg, terms=_axis_terms(study.layer))
    spatial = replace(cfg, terms=both.terms[:1])
    return cfg, spatial, both, replace(both, orthogonalize=True), replace(both, rescale=RESCALE)


def _cfg_scale_rows(study: Study) -> tuple[Row, ...]:
    return tuple(Row(guidance_scale) for guidance_scale in study.cfg_scales)


def _cfg_replacement_rows(study: Study, cfg: Row) -> tuple[Row, ...]:
    """Return no CFG, CFG, and STG alone with growing scales."""
    if not study.cfg_replacements:
        return (Row(1.0),)
    rows = (
        layer_map_row(Row(1.0), layer, skip, scale)
        for layer, skip in study.cfg_replacements
        for scale in CFG_REPLACEMENT_SCALES
    )
    return (Row(1.0), cfg, *rows)


def _scale_rows(start: Row, paper: Row) -> tuple[Row, ...]:
    row = replace(paper, guidance_scale=start.guidance_scale)
    return (start, *(_with_scale(row, scale) for scale in STG_SCALES))


def _with_scale(row: Row, scale: float) -> Row:
    """Set the scale of the first term, and the others in proportion; 0 is the row without STG."""
    if scale == 0:
        return Row(row.guidance_scale)
    first = row.terms[0].scale
    assert isinstance(first, float)
    return replace(
        row,
        terms=tuple(
            replace(term, scale=term.scale * scale / first)  # type: ignore[operator]
            for term in row.terms
        ),
    )


def _layer_map_rows(study: Study, start: Row, scale: float = MAP_SCALE) -> tuple[Row, ...]:
    cells = ((layer, skip) for skip in SKIPS for layer in study.layers)
    return (start, *(layer_map_row(start, layer, skip, scale) for layer, skip in cells))


def layer_map_row(start: Row, layer: Layer, skip: str, scale: float = MAP_SCALE) -> Row:
    """Return the row of a cell of the layer map."""
    return replace(start, terms=(STG((layer,), scale, skip, normalize=True),))


@dataclass(frozen=True)
class RequestedRow:
    """A row, and how many clips its experiments need."""

    row: Row
    experiment: str  # the first of them
    most: int
    whole: bool

    def clips_requested(self, clips: int) -> int:
        """Return how many clips of it to generate if other rows have `clips`."""
        return models.NUM_REAL if self.whole else min(clips, self.most)


def requested_rows(model: str, pattern: str = "*") -> list[RequestedRow]:
    """Return every row once, by priority.

    The real clips that sets are compared with are among them wherever another row is: without them
    no row has a Frechet distance.

    Args:
        pattern: a shell pattern for the names of rows, or of experiments, which stand for all their
            rows.
    """
    known = experiments(model) if pattern == "*" else (*experiments(model), *raised_maps(model))
    rows = [(experiment, row) for experiment in known for row in experiment.rows]

    def is_named(experiment: Experiment, row: Row) -> bool:
        return fnmatchcase(row.name, pattern) or fnmatchcase(experiment.name, pattern)

    if not any(is_named(*one) for one in rows):
        return []
    found: dict[str, RequestedRow] = {}
    for experiment, row in rows:
        if experiment.whole or is_named(experiment, row):
            new = RequestedRow(row, experiment.name, experiment.most, experiment.whole)
            old = found.get(row.name, new)
            found[row.name] = replace(old, most=max(old.most, new.most))
    return list(found.values())
