"""Make the videos that a tuning wants, as sweeps of its run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from skipguide.method.protocols import PlainData
from skipguide.runs import storage, sweep
from skipguide.runs.engine import Cost, Engine, Event, OnStep
from skipguide.runs.jobs import Job, ResolvedSetting, register_prompts
from skipguide.runs.ledger import Ledger
from skipguide.runs.plan import Plan
from skipguide.runs.plan_settings import Setting, make_setting
from skipguide.runs.prompt_rows import Prompt
from skipguide.runs.sweep import SweepEvent
from skipguide.runs.watch import Watch
from skipguide.tuning.options import TuneOptions

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class SurveyedEngine:
    """An engine that checks each setting on its model once, however many sweeps have it."""

    engine: Engine
    _surveyed: dict[str, ResolvedSetting] = field(default_factory=dict)

    @property
    def workers(self) -> int:
        """The number of jobs at a time."""
        return self.engine.workers

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries."""
        return self.engine.versions()

    def survey(self, settings: Sequence[Setting], image: Image | None) -> list[ResolvedSetting]:
        """Fill in settings and check those that are new."""
        keys = [f"{entry.name} {entry.generation.model_dump_json()}" for entry in settings]
        new = {key: entry for key, entry in zip(keys, settings, strict=True)
               if key not in self._surveyed}  # fmt: skip
        if new:
            found = self.engine.survey(list(new.values()), image)
            self._surveyed |= dict(zip(new, found, strict=True))
        return [self._surveyed[key] for key in keys]

    def cost(self, complete: Any, image: Image | None) -> Cost:
        """Measure the cost of a setting."""
        return self.engine.cost(complete, image)

    def inspect(self, generation: Any, function: Callable[[Any], Any]) -> Any:
        """Return what a function says of the pipeline of some settings."""
        return self.engine.inspect(generation, function)

    def run(self, jobs: Sequence[Job], on_step: OnStep | None) -> Iterator[Event]:
        """Do the jobs."""
        return self.engine.run(jobs, on_step)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """Apply a function to each item."""
        return self.engine.map(function, items)

    def close(self) -> None:
        """Free what it holds."""
        self.engine.close()


class Sampler:
    """Makes videos of settings on prompts, in the run of a tuning.

    Args:
        folder: of the run.
        options: of the tuning.
        engine: makes the videos.
        retry_failed: also make those that failed before.
    """

    def __init__(
        self, folder: Path, options: TuneOptions, engine: Engine, retry_failed: bool = False
    ):
        self.folder, self.options, self.retry_failed = folder, options, retry_failed
        self.engine = SurveyedEngine(engine)
        self.ids: list[int] = []  # of the prompts, in the ledger

    def register(self) -> None:
        """Write the prompts into the ledger, so that each has its id before it has a video.

        Raises:
            ValueError: for a folder of something else, or a sweep that writes to it.
            OSError: if the disk is full or cannot be written.
        """
        with (
            storage.translate_os_errors(self.folder),
            storage.lock_folder(self.folder),
            contextlib.closing(Ledger(self.folder, "create")) as ledger,
        ):
            self.ids = register_prompts(ledger, self.options.prompts)

    def prompts_of(self, ids: Sequence[int]) -> list[Prompt]:
        """Return the prompts with these ids."""
        return [self.options.prompts[self.ids.index(number)] for number in ids]

    def setting(self, given: PlainData) -> Setting:
        """Return a setting of the tuning.

        Raises:
            Problems: with all that is wrong with it.
        """
        words = {**self._common(), **given}
        name = words.pop("name")
        first = self.options.prompts[0]
        return make_setting(name, words, self.options.model, first, Path())

    def _common(self) -> PlainData:
        """Return what all settings share; a guidance scale that was asked for is never the model's.

        Of a scale of 1 or less there is no CFG, and candidates name none.
        """
        scales = self.options.guidance_scales
        return {**self.options.common, **({"guidance_scale": scales[0]} if scales else {})}

    def survey(self, given: PlainData) -> ResolvedSetting:
        """Fill in a setting, and check it on the model.

        Raises:
            ValueError: for what the model refuses.
        """
        return self.survey_all([given])[0]

    def survey_all(self, given: Sequence[PlainData]) -> list[ResolvedSetting]:
        """Fill in settings, and check all of them on the model before its weights are read.

        Raises:
            ValueError: for what the model refuses.
        """
        return self.engine.survey([self.setting(one) for one in given], self._image())

    def cost(self, complete: Any) -> Cost:
        """Measure passes and seconds per step of complete settings."""
        return self.engine.cost(complete, self._image())

    def _image(self) -> Image | None:
        from skipguide.runs.engine import read_start_image

        return read_start_image(self.options.prompts[0].image)

    def sample(
        self,
        settings: Sequence[PlainData],
        prompts: Sequence[int],
        watch: Watch | None = None,
        on_step: OnStep | None = None,
    ) -> Generator[SweepEvent, None, None]:
        """Make the videos of settings on prompts that are not there yet; yield what happens.

        Args:
            settings: in the words of a plan.
            prompts: their ids.
            watch: what else is kept of each video.
        """
        chosen = self.prompts_of(prompts)
        text = {
            "model": self.options.model,
            **self._common(),
            "prompts": [_written(prompt) for prompt in chosen],
            "seeds": list(self.options.seeds),
            "settings": [dict(given) for given in settings],
        }
        plan = Plan(
            tuple(chosen),
            self.options.seeds,
            tuple(self.setting(given) for given in settings),
            text=yaml.safe_dump(text, sort_keys=False, allow_unicode=True),
            watch=watch,
        )
        yield from sweep.sweep(
            plan,
            self.folder,
            self.engine,
            retry_failed=self.retry_failed,
            measure=False,
            on_step=on_step,
        )


def _written(prompt: Prompt) -> PlainData:
    """Return a prompt as a plan has it; of its image the name alone."""
    found: PlainData = {} if prompt.text is None else {"prompt": prompt.text}
    found |= {} if prompt.image is None else {"image": prompt.image.name}
    found |= {"seeds": list(prompt.seeds)} if prompt.seeds else {}
    return {**found, **prompt.settings}
