"""The pages of the report, through templates whose every number is a field.

docs/paper-in-miniature.md is short (page.md), docs/paper/appendix.md has every table and figure
(appendix.md). Both are written from the records of a run, or again from the published numbers.

A field is `[[verb argument ...]]`. Rows are named by experiment and position: `tables-1-2/1` is the
second row of that experiment. If something has not been made yet, or a model does not exist yet,
the report says so in place of the field.

    [[tables EXPERIMENT]]                the table of an experiment, for each model
    [[summary EXPERIMENT]]               the same of all models in one table, of few measures
    [[plots NAME]], [[plots NAME MODEL]] a figure for each model or one: cosines, strips, scales,
                                         map, map-without-cfg, with its reliability above it
    [[reliability MODEL MAP MEASURE]]    0.92 (0.86 to 0.96), or that it holds no signal
    [[compare ROW BASE]]                 COMPARED_MEASURES of two rows, for each model
    [[directions]], [[aligned]]          Figure 2 in numbers, and how many of them are below 0
    [[value MODEL ROW MEASURE]]          34.1 (33.0 to 35.2)
    [[gain MODEL ROW BASE MEASURE]]      -1.2 (-2.0 to -0.4), on the same prompts
    [[verdict MODEL ROW BASE MEASURE]]   better, worse, not distinguishable (higher or lower for a
                                         measure that is neither)
    [[best MODEL EXPERIMENT MEASURE]]    the row's label and value; of a map only if it holds a
                                         signal
    [[excess]]                           what the intervals of excesses are
    [[counts MODEL EXPERIMENT MEASURE]]  how many rows are better and worse than the first one
    [[model MODEL]]                      its name
    [[costs]]                            the cost of CFG, STG and a full weak pass, for each model
    [[state]]                            the models, and how many clips they have
    [[note]]                             what else is to be known of published numbers
    [[sampling]]                         the precision and the number of steps

A line whose fields have the model `*` is written for each model that has the named experiments.

Sentences about results are written by hand and stand where they can be concluded: see
`conclusions`. All other sentences are about how things are made, and hold whatever there is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from skipguide.lab import training_loop
from skipguide.paper import (
    directions,
    experiments,
    map_reliability,
    missing_records,
    models,
    published,
    sources,
    status,
    tables,
)
from skipguide.paper.analysis import MEASURES, Results
from skipguide.paper.conclusions import Conclusions
from skipguide.paper.figures import MAPS, Figures
from skipguide.paper.plots import MAP_MEASURES
from skipguide.paper.published import COMPARED_MEASURES, Source
from skipguide.paper.rows import Row
from skipguide.paper.run import Order

FIELD = re.compile(r"\[\[([^\[\]]+)\]\]")
MODEL_FIELD = re.compile(r"(\[\[\w+ )\*(?= |\]\])")  # a field of the model `*`
PAGE, APPENDIX = "page.md", "appendix.md"  # the templates


NO_SUCH_MODEL = "*None of the models of this report has this.*"
NO_VERDICT = "no verdict yet"


def write_report(order: Order, docs: Path) -> list[Path]:
    """Write the pages, their figures and their raw numbers; returns what was written.

    Raises:
        ValueError: for a template with an unknown field, or if nothing has been made.
    """
    missing_records.check_matplotlib()
    report = Report(order, docs / "paper")
    if not report.has_anything:
        raise ValueError(missing_records.describe(order))
    report.fill(read_template(PAGE))  # a wrong field is found before anything is written
    (docs / "paper").mkdir(parents=True, exist_ok=True)
    return [*report.write_pages(docs), *report.figures.draw(), *report.write_numbers()]


def write_pages_again(chosen: Sequence[str], docs: Path) -> list[Path]:
    """Write the pages, the layer maps and Figure 4 from the published numbers alone.

    The other figures need records, and stay as they are.

    Raises:
        ValueError: if there are no published numbers.
    """
    missing_records.check_matplotlib()
    source = published.read_source(docs / "paper", chosen)
    sampling = source.sampling
    weights = tuple((name, Path(name)) for name in sampling.weights)
    order = Order(
        Path("."), tuple(chosen), steps=sampling.steps, dtype=sampling.dtype, weights=weights
    )
    report = Report(order, docs / "paper", source)
    return [*report.write_pages(docs), *report.figures.draw()]


def read_template(name: str = PAGE) -> str:
    """Read a text with its fields."""
    return resources.files("skipguide.paper").joinpath(name).read_text(encoding="utf-8")


class Report:
    """The numbers of all models, and the fields that are filled with them.

    Args:
        order: the models, and how they sample.
        folder: of figures and raw numbers.
        source: the numbers; None reads the records of the order.
    """

    def __init__(self, order: Order, folder: Path, source: Source | None = None):
        self.order, self.folder = order, folder
        self.source = source or sources.from_records(order)
        self.results, self.directions = self.source.results, self.source.directions
        self.figures = Figures(
            folder, self.results, {} if source else sources.load_alignments(order)
        )
        self.experiments = {
            model: {one.name: one for one in experiments.experiments(model)}
            for model in models.MODELS
        }
        self.conclusions = Conclusions(order, self.source, self.experiments)
        self.prefix = ""  # of links to figures, which differs between the pages

    @property
    def has_anything(self) -> bool:
        """True if there is a number or a picture to report."""
        clips = any(results.clips for results in self.results.values())
        return bool(clips or self.source.costs or self.directions or self.figures.names())

    def write_pages(self, docs: Path) -> list[Path]:
        """Write both pages."""
        pages = {
            docs / "paper-in-miniature.md": (PAGE, f"{self.folder.name}/"),
            self.folder / "appendix.md": (APPENDIX, ""),
        }
        for path, (template, self.prefix) in pages.items():
            text = self.fill(read_template(template))
            with training_loop.atomic_path(path) as part:
                part.write_text(text, encoding="utf-8")
        return list(pages)

    def fill(self, text: str) -> str:
        """Replace the fields of a template, and the conclusions that cannot be drawn."""
        text = self.conclusions.fill(text)
        text = "".join(map(self._expand_models, text.splitlines(keepends=True)))
        return FIELD.sub(lambda match: self._field(*match[1].split()), text)

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
            "excess": self._excess, "gain": self._gain, "model": self._model,
            "note": lambda: self.source.note, "plots": self._plots,
            "reliability": self._reliability, "sampling": self._sampling, "state": self._state,
            "summary": self._summary, "tables": self._tables, "value": self._value,
            "verdict": self._verdict,
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
        return None if model in self.results else status.NO_MODEL

    def _tables(self, experiment: str) -> str:
        def made(model: str) -> str | None:
            found = self.results.get(model)
            return found and tables.table(found, self.experiments[model][experiment])

        if not any(experiment in known for known in self.experiments.values()):
            raise KeyError(experiment)
        return self._paragraphs(made, lambda model: experiment in self.experiments[model])

    def _summary(self, experiment: str) -> str:
        chosen = {
            model: found
            for model, found in self.results.items()
            if experiment in self.experiments[model]
        }
        if not any(experiment in known for known in self.experiments.values()):
            raise KeyError(experiment)
        known = {model: self.experiments[model][experiment] for model in chosen}
        return tables.summary(chosen, known)

    def _plots(self, name: str, model: str | None = None) -> str:
        drawn = self.figures.names()
        if name not in {"cosines", "strips", "scales", *MAPS}:
            raise KeyError(name)

        def made(model: str) -> str | None:
            file = f"{model}-{name}.png"
            if file not in drawn:
                return None
            picture = f"![{model}: {name}]({self.prefix}{file})"
            return f"{self._map_note(model, name)}\n\n{picture}" if name in MAPS else picture

        if model is not None:
            return self._absence_note(model) or made(model) or tables.NOT_YET
        return self._paragraphs(made)

    def _map_note(self, model: str, name: str) -> str:
        """Say how reliable a map is, for the measures that are printed in it."""
        found = (
            f"{MEASURES[measure].title} {self._reliability(model, name, measure)}"
            for measure in MAP_MEASURES
        )
        return f"Reliability: {'; '.join(found)}."

    def _directions(self) -> str:
        return self._paragraphs(
            lambda model: (
                directions.directions_table(found)
                if (found := self.directions.get(model))
                else None
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
            found = self.source.costs.get(model)
            return tables.costs_table(found, experiments.cost_rows(model)) if found else None

        return self._paragraphs(made)

    def _alignment(self) -> str:
        def made(model: str) -> str:
            return (
                directions.summarize_directions(found)
                if (found := self.directions.get(model))
                else tables.NOT_YET
            )

        return "\n".join(
            f"- {model}: {self._absence_note(model) or made(model)}" for model in self.order.models
        )

    def _state(self) -> str:
        lines = []
        for model in self.order.models:
            one = self.source.made.get(model)
            distances = (
                f"Frechet distances to {one.real} real clips"
                if one and one.real
                else "no Frechet distances"
            )
            made = one and f"{one.clips} clips in {one.rows} of {one.of} rows; {distances}"
            lines.append(f"- {model}: {self._absence_note(model) or made or tables.NOT_YET}")
        return "\n".join(lines)

    def _excess(self) -> str:
        exact = "It has the interval of the difference itself, prompt by prompt."
        found = self.results.values()
        if all(
            not isinstance(one, published.PublishedResults) or one.has_exact_excess for one in found
        ):
            return exact
        return (
            "Its interval here is the widest that those of both distances allow, which is too wide:"
            " prompt by prompt it takes the clips' features, and those of the published clips are"
            " not stored. `skipguide paper run` makes them again, and then it is computed."
        )

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
        complete = self.conclusions.is_complete(model, row.partition("/")[0])

        def made(results: Results, rows: Sequence[Row]) -> str:
            if not complete:
                return NO_VERDICT
            return tables.verdict(results.difference(rows[0], rows[1], measure), MEASURES[measure])

        return self._describe_rows(model, [row, base], made)

    def _best(self, model: str, experiment: str, measure: str) -> str:
        def made(results: Results, _: Sequence[Row]) -> str | None:
            one = self.experiments[model][experiment]
            rows = one.rows
            known = {row.label: e for row in rows if (e := results.estimate(row, measure))}
            if len(known) < len(rows):
                return _so_many(len(known), len(rows))
            if experiment in MAPS:
                cell = map_reliability.best_cell(results, one, measure)
                if cell is None:
                    return f"none is named, for {map_reliability.NO_SIGNAL}"
                value = tables.format_estimate(known[cell.label], MEASURES[measure].digits)
                return f"{cell.label}, {value}"
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
            if not self.conclusions.is_complete(model, experiment):
                return NO_VERDICT
            found = Counter(
                tables.verdict(difference, MEASURES[measure]) for difference in differences
            )
            said = [f"{found[word]} {word}" for word in tables.verdicts(MEASURES[measure])]
            return f"{', '.join(said)} of {len(differences)}"

        return self._describe_rows(model, [f"{experiment}/0"], made)

    def _reliability(self, model: str, experiment: str, measure: str) -> str:
        one = self.experiments[model][experiment]

        def made(results: Results, _: Sequence[Row]) -> str:
            found = map_reliability.measure_reliability(results, one, measure)
            return map_reliability.describe_reliability(found)

        return self._describe_rows(model, [f"{experiment}/0"], made)

    def _model(self, model: str) -> str:
        return model

    # --- files ------------------------------------------------------------------------------------

    def write_numbers(self) -> list[Path]:
        """Write the raw numbers."""
        rows, cosines = self.folder / "rows.csv", self.folder / "figure-2.csv"
        page = self.folder / "page.json"
        chosen = {model: list(known.values()) for model, known in self.experiments.items()}
        tables.write_rows(list(self.results.values()), chosen, rows)
        directions.write_directions(self.directions, cosines)
        complete = {model: self.conclusions.complete_experiments(model) for model in self.results}
        published.write_page_numbers(self.source, complete, page)
        clips = {
            model: self.folder / f"{model}-clips.csv.gz"
            for model, found in self.results.items()
            if found.clips
        }
        for model, path in clips.items():
            tables.write_clips(self.results[model], path)
        return [rows, cosines, page, *clips.values()]


def _so_many(made: int, rows: int) -> str | None:
    """Say how much there is of what can be judged as a whole only."""
    return f"{made} of {rows} rows made yet" if made else None
