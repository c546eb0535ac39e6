"""docs/paper-in-miniature.md from the records, through a template whose every number is a field.

A field is `[[verb argument ...]]`. Rows are named by experiment and position: `tables-1-2/1` is the
second row of that experiment. If something has not been made yet, or a model does not exist yet,
the report says so in place of the field.

    [[tables EXPERIMENT]]                the table of an experiment, for each model
    [[plots NAME]]                       a figure for each model: cosines, strips, scales, map,
                                         map-without-cfg
    [[compare ROW BASE]]                 COMPARED_MEASURES of two rows, for each model
    [[directions]], [[aligned]]          Figure 2 in numbers, and how many of them are below 0
    [[value MODEL ROW MEASURE]]          34.1 (33.0 to 35.2)
    [[gain MODEL ROW BASE MEASURE]]      -1.2 (-2.0 to -0.4), on the same prompts
    [[verdict MODEL ROW BASE MEASURE]]   better, worse, not distinguishable (higher or lower for a
                                         measure that is neither)
    [[best MODEL EXPERIMENT MEASURE]]    the row's label and value
    [[counts MODEL EXPERIMENT MEASURE]]  how many rows are better and worse than the first one
    [[model MODEL]]                      its name
    [[costs]]                            the cost of CFG, STG and a full weak pass, for each model
    [[state]]                            the models, and how many clips they have
    [[sampling]]                         the precision and the number of steps

A line whose fields have the model `*` is written for each model that has the named experiments.

Sentences about results are written by hand, from CONCLUSION_CLIPS clips a row of the packaged
models as they sample by default. They stand between `[[concluded EXPERIMENT ...]]` and `[[end]]`,
each on a line of its own; while a model lacks a row of these experiments or some of its clips, and
for other weights, steps or dtypes, the report says that in their place. `figure-2` is an experiment
here. All other sentences are about how things are made, and hold whatever there is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from skipguide.lab import training_loop
from skipguide.paper import (
    cost,
    experiments,
    figure2,
    missing_records,
    models,
    plots,
    status,
    tables,
)
from skipguide.paper.analysis import MEASURES, Results
from skipguide.paper.rows import Row
from skipguide.paper.run import Order

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIELD = re.compile(r"\[\[([^\[\]]+)\]\]")
MODEL_FIELD = re.compile(r"(\[\[\w+ )\*(?= |\]\])")  # a field of the model `*`
SCALES = ("figure-4-cfg", "figure-4-stg", "figure-4-stg-high")
COMPARED_MEASURES = ("right", "frechet", "motion_amount", "vendi")
MAPS = ("map", "map-without-cfg")
CONCLUSION = re.compile(r"^\[\[concluded ([^\[\]]+)\]\]\n(.*?)^\[\[end\]\]\n", re.M | re.S)
CONCLUSION_CLIPS = 1024  # of every row, or as many as its experiment has at most


OTHER_SAMPLING = (
    "*No conclusion: those that stand here are about the packaged models in"
    " {dtype} with their usual number of steps, and this report is of something else.*\n"
)
NO_SUCH_MODEL = "*None of the models of this report has this.*"
NO_VERDICT = "no verdict yet"


def write_report(order: Order, docs: Path) -> list[Path]:
    """Write the report, its plots and its raw numbers; returns what was written.

    Raises:
        ValueError: for a template with an unknown field, or if nothing has been made.
    """
    missing_records.check_matplotlib()
    report = Report(order, docs / "paper")
    if not report.has_anything:
        raise ValueError(missing_records.describe(order))
    text = report.fill(read_template())
    (docs / "paper").mkdir(parents=True, exist_ok=True)
    written = [*report.draw(), *report.write_numbers()]
    path = docs / "paper-in-miniature.md"
    with training_loop.atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")
    return [path, *written]


def read_template() -> str:
    """Read the text with its fields."""
    return resources.files("skipguide.paper").joinpath("report.md").read_text(encoding="utf-8")


class Report:
    """The records of all models, and the fields that are filled with them."""

    def __init__(self, order: Order, folder: Path):
        self.order, self.folder = order, folder
        places = {
            model: place[0] for model in order.models if (place := order.locate_records(model))
        }
        self.there = tuple(places)
        self.results = {
            model: Results.load(model, place, order.clips) for model, place in places.items()
        }
        self.alignments = {
            m: found for m, place in places.items() if (found := figure2.load(place))
        }
        self.experiments = {
            model: {one.name: one for one in experiments.experiments(model)}
            for model in models.MODELS
        }

    @property
    def has_anything(self) -> bool:
        """True if there is a number or a picture to report."""
        clips = any(results.clips for results in self.results.values())
        costs = any(cost.load(results.place) for results in self.results.values())
        return bool(clips or costs or self.alignments or dict(self._figures()))

    @property
    def is_usual(self) -> bool:
        """True if the models are the packaged ones and sample as they do by default."""
        order = self.order
        usual = {None, *(models.MODELS[name].steps for name in order.models)}
        return order.dtype == models.DTYPE and order.steps in usual and not order.weights

    def fill(self, text: str) -> str:
        """Replace the fields of a template, and the conclusions that cannot be drawn."""
        if not self.is_usual:  # is said once
            text = CONCLUSION.sub(OTHER_SAMPLING.format(dtype=models.DTYPE), text, count=1)
            text = CONCLUSION.sub("", text)
        text = CONCLUSION.sub(lambda match: self._conclude(match[1].split(), match[2]), text)
        text = "".join(map(self._expand_models, text.splitlines(keepends=True)))
        return FIELD.sub(lambda match: self._field(*match[1].split()), text)

    def _conclude(self, names: Sequence[str], sentences: str) -> str:
        """Return the sentences, or which models have not made what they are drawn from."""
        lacking = {
            name: [model for model in models.MODELS if not self._is_complete(model, name)]
            for name in names
        }
        parts = [f"{name} of {', '.join(found)}" for name, found in lacking.items() if found]
        if not parts:
            return sentences
        return (
            f"*No conclusion yet: that takes {CONCLUSION_CLIPS:,} clips a row, or all that an"
            f" experiment has, and these have fewer: {'; '.join(parts)}.*\n"
        )

    def _is_complete(self, model: str, name: str) -> bool:
        """Return whether a model has made what the conclusions are drawn from."""
        if name == "figure-2":
            return model in self.results and figure2.is_measured(self.results[model].place)
        known = self.experiments[model]
        if not any(name in others for others in self.experiments.values()):
            raise ValueError(
                f"a conclusion must name experiments, but got {name!r}. Correct the template."
            )
        if name not in known:  # not an experiment of this model
            return True
        wanted = min(CONCLUSION_CLIPS, known[name].most)
        results = self.results.get(model)
        return (
            results is not None
            and results.num_real >= models.NUM_REAL
            and all(
                (clips := results.clips_of(row)) is not None and len(clips) >= wanted
                for row in known[name].rows
            )
        )

    def _expand_models(self, line: str) -> str:
        """Repeat a line of the model `*` for each model with its experiments; keep others."""
        if not MODEL_FIELD.search(line):
            return line
        named = {
            argument.partition("/")[0]
            for match in FIELD.finditer(line)
            for argument in match[1].split()[2:]
        }
        named &= {name for known in self.experiments.values() for name in known}
        chosen = [model for model in self.order.models if named <= self.experiments[model].keys()]
        return "".join(MODEL_FIELD.sub(rf"\g<1>{model}", line) for model in chosen)

    def _field(self, verb: str, *arguments: str) -> str:
        known: dict[str, Callable[..., str]] = {
            "aligned": self._alignment, "best": self._best, "compare": self._compare,
            "costs": self._costs, "counts": self._counts, "directions": self._directions,
            "gain": self._gain, "model": self._model, "plots": self._plots,
            "sampling": self._sampling, "state": self._state, "tables": self._tables,
            "value": self._value, "verdict": self._verdict,
        }  # fmt: skip
        try:
            return known[verb](*arguments)
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                "a field of the report must be one that report.py knows, but got"
                f" [[{' '.join((verb, *arguments))}]] ({type(error).__name__}: {error}). Correct"
                " the template."
            ) from error

    # --- fields of all models ---------------------------------------------------------------------

    def _paragraphs(
        self, made: Callable[[str], str | None], has: Callable[[str], bool] = lambda model: True
    ) -> str:
        """Join a paragraph for each model that has it."""
        parts = [
            f"**{model}**\n\n{self._absence_note(model) or made(model) or tables.NOT_YET}"
            for model in self.order.models
            if has(model)
        ]
        return "\n\n".join(parts) or NO_SUCH_MODEL

    def _absence_note(self, model: str) -> str | None:
        """Return why there is nothing of a model, or None."""
        return None if model in self.there else status.NO_MODEL

    def _tables(self, experiment: str) -> str:
        def made(model: str) -> str | None:
            found = self.results.get(model)
            return found and tables.table(found, self.experiments[model][experiment])

        if not any(experiment in known for known in self.experiments.values()):
            raise KeyError(experiment)
        return self._paragraphs(made, lambda model: experiment in self.experiments[model])

    def _plots(self, name: str) -> str:
        drawn = dict(self._figures())
        if name not in {"cosines", "strips", "scales", *MAPS}:
            raise KeyError(name)

        def made(model: str) -> str | None:
            file = f"{model}-{name}.png"
            return f"![{model}: {name}]({self.folder.name}/{file})" if file in drawn else None

        return self._paragraphs(made)

    def _directions(self) -> str:
        return self._paragraphs(
            lambda model: (
                tables.directions_table(found) if (found := self.alignments.get(model)) else None
            )
        )

    def _compare(self, row: str, base: str) -> str:
        def made(model: str) -> str:
            parts = [
                f"{MEASURES[name].title} {gain}, {self._verdict(model, row, base, name)}"
                for name in COMPARED_MEASURES
                if (gain := self._gain(model, row, base, name)) != tables.NOT_YET
            ]
            return "; ".join(parts) or tables.NOT_YET

        experiment = row.partition("/")[0]
        chosen = [model for model in self.order.models if experiment in self.experiments[model]]
        lines = [f"- {model}: {self._absence_note(model) or made(model)}" for model in chosen]
        return "\n".join(lines) or NO_SUCH_MODEL

    def _costs(self) -> str:
        def made(model: str) -> str | None:
            found = cost.load(self.results[model].place) if model in self.results else None
            return tables.costs_table(found, experiments.cost_rows(model)) if found else None

        return self._paragraphs(made)

    def _alignment(self) -> str:
        def made(model: str) -> str:
            return (
                tables.summarize_alignment(found)
                if (found := self.alignments.get(model))
                else tables.NOT_YET
            )

        return "\n".join(
            f"- {model}: {self._absence_note(model) or made(model)}" for model in self.order.models
        )

    def _state(self) -> str:
        lines = []
        for model, entry in status.count_clips(self.order).items():
            done, rows = (
                sum(row["done"] for row in entry["rows"]),
                sum(row["done"] > 0 for row in entry["rows"]),
            )
            real = self.results[model].num_real if model in self.results else 0
            distances = (
                f"Frechet distances to {real} real clips" if real else "no Frechet distances"
            )
            made = f"{done} clips in {rows} of {len(entry['rows'])} rows; {distances}"
            lines.append(f"- {model}: {self._absence_note(model) or made}")
        return "\n".join(lines)

    def _sampling(self) -> str:
        order = self.order
        paper = ", as the paper's do" if order.dtype == models.DTYPE else ""
        if order.steps is None:
            steps = (
                "with half of their own steps or fewer, which leaves the numbers of plain CFG where"
                " they are"
            )
        else:
            steps = f"with {order.steps} steps"
        own = ", ".join(name for name, _ in order.weights)
        weights = f". The weights of {own} are not those of the package" if own else ""
        return f"Models run in {order.dtype}{paper}, {steps}; Figure 2 is in float32{weights}."

    # --- fields of one row ------------------------------------------------------------------------

    def _describe_rows(
        self, model: str, names: Sequence[str], made: Callable[[Results, Sequence[Row]], str | None]
    ) -> str:
        """Fill a field about rows of one experiment.

        The experiment of the first row decides which prompts are compared.
        """
        known = {
            f"{one.name}/{i}": row
            for one in self.experiments[model].values()
            for i, row in enumerate(one.rows)
        }
        rows, results = [known[name] for name in names], self.results.get(model)
        compared = self.experiments[model][names[0].partition("/")[0]]
        found = results and made(results.restrict_to(compared.rows, compared.first), rows)
        return self._absence_note(model) or found or tables.NOT_YET

    def _value(self, model: str, row: str, measure: str) -> str:
        digits = MEASURES[measure].digits
        return self._describe_rows(
            model,
            [row],
            lambda r, rows: tables.format_estimate(r.estimate(rows[0], measure), digits),
        )

    def _gain(self, model: str, row: str, base: str, measure: str) -> str:
        def made(results: Results, rows: Sequence[Row]) -> str:
            difference = results.difference(rows[0], rows[1], measure)
            return tables.format_estimate(difference, MEASURES[measure].digits, signed=True)

        return self._describe_rows(model, [row, base], made)

    def _verdict(self, model: str, row: str, base: str, measure: str) -> str:
        complete = self._is_complete(model, row.partition("/")[0])

        def made(results: Results, rows: Sequence[Row]) -> str:
            if not complete:
                return NO_VERDICT
            return tables.verdict(results.difference(rows[0], rows[1], measure), MEASURES[measure])

        return self._describe_rows(model, [row, base], made)

    def _best(self, model: str, experiment: str, measure: str) -> str:
        def made(results: Results, _: Sequence[Row]) -> str | None:
            rows = self.experiments[model][experiment].rows
            known = {row.label: e for row in rows if (e := results.estimate(row, measure))}
            if len(known) < len(rows):
                return _so_many(len(known), len(rows))
            best = max(
                known, key=lambda label: MEASURES[measure].better * known[label].value, default=None
            )
            return (
                best and f"{best}, {tables.format_estimate(known[best], MEASURES[measure].digits)}"
            )

        return self._describe_rows(model, [f"{experiment}/0"], made)

    def _counts(self, model: str, experiment: str, measure: str) -> str:
        def made(results: Results, first: Sequence[Row]) -> str | None:
            rows = self.experiments[model][experiment].rows[1:]
            differences = [d for row in rows if (d := results.difference(row, first[0], measure))]
            if len(differences) < len(rows):
                return _so_many(len(differences), len(rows))
            if not self._is_complete(model, experiment):
                return NO_VERDICT
            found = Counter(
                tables.verdict(difference, MEASURES[measure]) for difference in differences
            )
            said = [f"{found[word]} {word}" for word in tables.verdicts(MEASURES[measure])]
            return f"{', '.join(said)} of {len(differences)}"

        return self._describe_rows(model, [f"{experiment}/0"], made)

    def _model(self, model: str) -> str:
        return model

    # --- files ------------------------------------------------------------------------------------

    def _figures(self) -> Iterator[tuple[str, Callable[[], Figure]]]:
        """Yield the file names of the figures that can be drawn, and functions that draw them."""
        for model, found in self.alignments.items():
            yield f"{model}-cosines.png", lambda m=model, a=found: plots.plot_cosines(m, a)
        for model, results in self.results.items():
            known = self.experiments[model]
            lines = [known[name] for name in SCALES]
            if plots.has_scales(results, lines):
                yield f"{model}-scales.png", lambda r=results, k=lines: plots.plot_scales(r, k)
            for name in MAPS:
                if plots.count_cells(results, known[name]):
                    yield (
                        f"{model}-{name}.png",
                        lambda r=results, one=known[name]: plots.plot_layers(r, one),
                    )
            if plots.finished_strips(results):
                yield f"{model}-strips.png", lambda r=results: plots.plot_strips(r)

    def draw(self) -> list[Path]:
        """Write the figures."""
        written = []
        for name, drawn in self._figures():
            plots.save(drawn(), self.folder / name)
            written.append(self.folder / name)
        return written

    def write_numbers(self) -> list[Path]:
        """Write the raw numbers."""
        rows, cosines = self.folder / "rows.csv", self.folder / "figure-2.csv"
        chosen = {model: list(known.values()) for model, known in self.experiments.items()}
        tables.write_rows(list(self.results.values()), chosen, rows)
        tables.write_directions(self.alignments, cosines)
        clips = {
            model: self.folder / f"{model}-clips.csv.gz"
            for model, found in self.results.items()
            if found.clips
        }
        for model, path in clips.items():
            tables.write_clips(self.results[model], path)
        return [rows, cosines, *clips.values()]


def _so_many(made: int, rows: int) -> str | None:
    """Say how much there is of what can be judged as a whole only."""
    return f"{made} of {rows} rows made yet" if made else None
