"""Report on a tuning: its plan, a line or a bar meanwhile, each round, and the answer."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipguide.cli.console import ClipCounter
from skipguide.method.protocols import PlainData

if TYPE_CHECKING:
    from skipguide.generate.run import StepProgress
    from skipguide.tuning.events import Planned, RoundOver, TuneEvent, TuneResult
    from skipguide.tuning.scan.layer_map import LayerMap

_BEST = 8  # cells of the map that are printed
_LEFT_OUT = {
    "idle": "the push is shorter than 0.02 |c|",
    "broken": "longer than 0.7 |c|",
    "edge": "of the first two layers",
}


def plan_payload(planned: Planned) -> PlainData:
    """Return a plan for --json."""
    return {
        **planned.plan.to_dict(),
        "model": planned.facts.to_dict(),
        "timing": vars(planned.timing),
        "sentences": list(planned.sentences),
    }


@dataclass
class TuneReport(ClipCounter):
    """The messages of a tuning, while it runs and at its end."""

    folder: Path
    only_plan: bool = False  # the plan is the result
    planned: Planned | None = None
    stage: str = ""
    wanted: int = 0  # clips of this part of a stage
    made: int = 0
    failures: list[PlainData] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _title: str = ""

    def follow(self, steps: Generator[TuneEvent, None, TuneResult | None]) -> TuneResult | None:
        """Report all events; return the result."""
        while True:
            try:
                event = next(steps)
            except StopIteration as ended:
                return ended.value
            self.handle(event)

    def handle(self, event: Any) -> None:
        """Note an event and report it."""
        from skipguide.runs.engine import JobFailed
        from skipguide.runs.sweep import ClipPublished, SweepEstimate
        from skipguide.tuning import events

        if isinstance(event, events.Planned):
            self.planned = event
            for text in () if self.only_plan else event.sentences:
                self.print_line(text)
        elif isinstance(event, events.Noted):
            self.notes.append(event.text)
            self.print_line(f"note: {event.text}")
        elif isinstance(event, events.StageBegan):
            self.stage, self.made, self.began = event.name, 0, time.monotonic()
        elif isinstance(event, SweepEstimate):
            self.wanted = event.missing
            for text in event.notes:
                self.print_line(f"note: {text}")
        elif isinstance(event, ClipPublished):
            self.made += 1
            if self.bar is None:
                self.print_line(self._clip_line(event))
        elif isinstance(event, JobFailed):
            self._handle_failure(event)
        elif isinstance(event, events.Mapped):
            for line in map_lines(event.map):
                self.print_line(line)
        elif isinstance(event, events.RoundOver):
            self._handle_round(event)
        self._update_bar()

    def on_step(self, step: StepProgress) -> None:
        """Show a denoising step of the clip that is being made."""
        self._update_bar(f", step {step.number}/{step.steps}")

    def _handle_failure(self, event: Any) -> None:
        error = event.error.splitlines()[0]
        named = {"key": event.job.key, "setting": event.job.setting, "error": error}
        self.failures.append(named)
        self.print_line(f"{event.job.setting} failed: {error}")

    def _handle_round(self, event: RoundOver) -> None:
        state = event.state
        if not state.rounds or self._title == f"{event.stage} {len(state.rounds)} {state.over}":
            return
        self._title = f"{event.stage} {len(state.rounds)} {state.over}"
        last = state.rounds[-1]
        leader = next(one.title for one in event.candidates if one.name == last.leader)
        self.print_line(
            f"{event.stage}, round {last.number}: {leader} leads,"
            f" {len(state.active)} of {len(event.candidates)} are in"
        )
        for gone in last.exits:
            self.print_line(f"  {gone.reason}")
        if state.over:
            self.print_line(f"  {state.why}")

    def _clip_line(self, event: Any) -> str:
        job = event.job
        of = f"{self.made}/{self.wanted}"
        subject = job.generation.prompt or job.generation.image
        return f"{self.stage} {of} {job.setting}, {subject}, {event.seconds:.1f} s"

    def _update_bar(self, more: str = "") -> None:
        if self.bar is not None and self.stage:
            done = min(self.made, self.wanted)
            self.update(description=self.stage, total=self.wanted, completed=done, state=more)

    def summary(self, result: TuneResult) -> str:
        """Return the result in lines."""
        if result.waiting is not None:
            return result.waiting
        assert result.answer is not None
        lines = list(result.answer.sentences)
        if result.preset is not None:
            lines.append(f"Use it: {result.command}")
        else:
            lines.append(f"Look at them side by side: skipguide studio {self.folder}")
        if result.report is not None:
            lines.append(f"Report: {result.report}")
        if self.failures:
            count = len(self.failures)
            lines.append(
                f"{count} clip{'s' * (count != 1)} failed: skipguide runs show {self.folder} says"
                " why, --retry-failed tries again."
            )
        return "\n".join(lines)

    def payload(self, result: TuneResult) -> PlainData:
        """Return the result for --json."""
        assert self.planned is not None
        return {
            "run": str(self.folder),
            "plan": plan_payload(self.planned),
            "waiting": result.waiting,
            "answer": None if result.answer is None else result.answer.to_dict(),
            "preset": None if result.preset is None else str(result.preset),
            "report": None if result.report is None else str(result.report),
            "command": result.command or None,
            "notes": self.notes,
            "failures": self.failures,
        }


def map_lines(layer_map: LayerMap) -> list[str]:
    """Return the first cells of a map, and what is left out."""
    from skipguide.tuning.scan import map_document

    ranked = [place for place in layer_map.order if not layer_map.kinds[place]]
    lines = [f"The scan ranks the layers; it is no verdict. {map_document.RULE}"]
    marks = {
        **layer_map.passed_over(),
        **{cell.name: "in the shortlist" for cell in layer_map.shortlist()},
    }
    for place in ranked[:_BEST]:
        mark = marks.get(layer_map.cells[place].name)
        lines.append(_cell_line(layer_map, place) + (f"; {mark}" if mark else ""))
    if ranked[_BEST:]:
        lines.append(f"  and {len(ranked) - _BEST} more in map.csv")
    for kind, what in _LEFT_OUT.items():
        pairs = zip(layer_map.cells, layer_map.kinds, strict=True)
        layers = [cell.layer for cell, own in pairs if own == kind]
        if layers:
            cells = f"{len(layers)} cell{'s' * (len(layers) != 1)}"
            lines.append(f"  {kind} ({what}): {cells} of {', '.join(dict.fromkeys(layers))}")
    return lines


def _cell_line(layer_map: LayerMap, place: int) -> str:
    low, high = layer_map.rank_low[place], layer_map.rank_high[place]
    sure = ""
    if low == low:  # with one prompt there is nothing to draw anew
        share = layer_map.first_three[place]
        sure = f" ({low:.0f} to {high:.0f}; among the first three with {share:.0%})"
    return (
        f"  {layer_map.rank[place]:>3.0f}{sure} {layer_map.cells[place].name}: |c - p| is"
        f" {layer_map.means['ratio'][place]:.2f} |c|, a weak pass costs"
        f" {layer_map.costs[place]:.2f}"
    )
