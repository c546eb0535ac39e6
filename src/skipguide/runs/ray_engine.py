"""The engine on Ray: one worker per GPU (or CPU), on this machine or many, each holding the model.

Workers write nothing: what they make comes back to the one process that keeps the ledger. A worker has one job at a
time, so that no more results wait than there are workers. A job whose worker is lost, with its process or its machine,
is given to another one.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from skipguide.generate.settings import Generation
from skipguide.runs.engine import Cost, Event, Failed, Finished, OnStep, Started, described, picture_of
from skipguide.runs.jobs import Job, Surveyed
from skipguide.runs.plan import Setting

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
_LOSSES = 3  # of workers under one job, before it is the job's fault
_PATIENCE = 20 * 60  # seconds for machines of a cloud to come up
_LOOK = 20  # seconds after which one looks whether there are any machines
_DEAD_AT_BIRTH = 3  # workers in a row that were lost before they were ready


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise ValueError(
            "a sweep with --ray needs the package ray, but it is not installed. Run `pip install 'skipguide[ray]'`, or "
            "leave --ray out."
        ) from None


class _Remote:
    """What runs in the process of a worker."""

    def __init__(self) -> None:
        from skipguide.runs.worker import Worker

        self._worker = Worker()

    def ready(self) -> dict[str, str]:
        """The versions that it has."""
        from skipguide.generate import record

        return record.versions()

    def survey(self, settings: Sequence[Setting], image: Image | None) -> list[Surveyed]:
        return self._worker.survey(settings, image)

    def cost(self, complete: Generation, image: Image | None) -> Cost:
        return self._worker.cost(complete, image)

    def make(self, job: Job, image: Image | None) -> Event:
        """What became of a job; an error of the job's is no loss of the worker."""
        try:
            return Finished(job, self._worker.make(job, image))
        except Exception as error:
            return Failed(job, described(error))

    def apply(self, function: Callable[[Any], Any], item: Any) -> tuple[Any]:
        """In a tuple, so that None is a result too."""
        return (function(item),)


@dataclass(frozen=True)
class _Lost:
    """In the place of a result: every worker that was given it was lost."""

    reason: str


@dataclass
class _Fleet:
    """The workers: which come up, which are idle, which are at a job. Keys are the references that Ray resolves."""

    starting: dict[Any, tuple[Any, bool]] = field(default_factory=dict)  # reference -> worker, whether it is a new one
    idle: deque[Any] = field(default_factory=deque)
    busy: dict[Any, tuple[Any, Any]] = field(default_factory=dict)  # reference -> worker, (number, item)
    stillborn: int = 0


class OnRay:
    """Workers on Ray.

    Args:
        address: of a cluster: "auto" for the one around, or else a new one here; "local" for a new one here;
            "HOST:PORT" or "ray://HOST:PORT".
        workers: how many; None is one per GPU of the cluster, or per CPU where there is none.

    Raises:
        ValueError: if there is no ray, no such cluster, or less on this machine than so many workers need.
    """

    def __init__(self, address: str = "auto", workers: int | None = None):
        self._ray = _ray()
        self._own = not self._ray.is_initialized()
        if self._own:
            self._connect(address)
        resources = self._ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        takes = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": 1}
        self.workers = workers or max(gpus or cpus, 1)
        self._fleet = _Fleet()
        if address == "local" and self.workers > (gpus or cpus):  # a cluster may grow
            self.close()
            raise ValueError(
                f"a worker needs a {'GPU' if gpus else 'CPU'} of its own, but got --workers {workers} for "
                f"{gpus or cpus}. Ask for fewer."
            )
        self._class = self._ray.remote(**takes)(_Remote)
        self._versions: dict[str, str] = {}

    def _connect(self, address: str) -> None:
        options: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
        local = {**options, "include_dashboard": False, "address": "local"}
        try:
            if address == "local":
                self._ray.init(**local)
            elif address == "auto" and "RAY_ADDRESS" not in os.environ:
                try:
                    self._ray.init(address="auto", **options)
                except ConnectionError:  # no cluster is running here
                    self._ray.init(**local)
            else:
                self._ray.init(address=address, **options)
        except Exception as error:  # ray raises several kinds, bare ones among them
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"--ray must be a cluster that answers, but {address}: {reason} Check the address."
            ) from None

    # --- before the jobs ----------------------------------------------------------------------------------------------

    def versions(self) -> dict[str, str]:
        """Of the first worker; all others must have the same."""
        self._first()
        return self._versions

    def survey(self, settings: Sequence[Setting], image: Image | None) -> list[Surveyed]:
        """By the first worker."""
        return self._asked("survey", settings, image)

    def cost(self, complete: Generation, image: Image | None) -> Cost:
        """By the first worker."""
        return self._asked("cost", complete, image)

    def _asked(self, name: str, *arguments: Any) -> Any:
        try:
            return self._ray.get(getattr(self._first(), name).remote(*arguments))
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayActorError as error:
            raise ValueError(
                f"a worker must stay alive while it checks a plan, but it was lost: {_reason(error)}. Look for memory."
            ) from None

    def _first(self) -> Any:
        """A worker that is ready; all are asked for at once."""
        self._enlist(self.workers)
        while not self._fleet.idle:
            self._settle(self._ended())
        return self._fleet.idle[0]

    def _ended(self) -> Any:
        """What ends first of all that workers do.

        Raises:
            ValueError: if there is no machine, or none has taken a worker for a long time: nothing can end then.
        """
        fleet, started = self._fleet, time.monotonic()
        while not (ended := self._ray.wait([*fleet.busy, *fleet.starting], num_returns=1, timeout=_LOOK)[0]):
            if not any(node["Alive"] for node in self._ray.nodes()):
                raise ValueError(
                    "a cluster must have a machine, but all of this one were lost. Start it, and sweep again: what is "
                    "made stays."
                )
            if not fleet.busy and time.monotonic() - started > _PATIENCE:
                raise ValueError(
                    f"a worker must be ready within {_PATIENCE // 60} minutes, but none is. Look at `ray status`: are "
                    "there machines with a free GPU or CPU?"
                )
        return ended[0]

    # --- the jobs -----------------------------------------------------------------------------------------------------

    def run(self, jobs: Sequence[Job], on_step: OnStep | None) -> Iterator[Event]:
        """Jobs in their order, to whichever worker is idle."""
        for job, what in self._spread(jobs, lambda worker, job: worker.make.remote(job, picture_of(job.image))):
            if isinstance(what, _Lost):
                yield Failed(job, f"the worker was lost {_LOSSES} times under this job: {what.reason}")
            else:
                yield Started(job) if what is None else what

    def each(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """As `Engine.each`; the function and what it returns are sent, so both must be small."""
        numbers = range(len(items))
        for _, what in self._spread(numbers, lambda worker, i: worker.apply.remote(function, items[i])):
            if isinstance(what, _Lost):
                raise RuntimeError(f"a worker was lost {_LOSSES} times under one part: {what.reason}")
            if what is not None:
                yield what[0]

    def _spread(self, items: Iterable[T], call: Callable[[Any, T], Any]) -> Iterator[tuple[T, Any]]:
        """Call workers with items: (item, None) before a call, then (item, what it returned) or (item, _Lost)."""
        waiting, losses = deque(enumerate(items)), Counter[int]()
        try:
            while waiting or self._fleet.busy:
                yield from self._begin(waiting, call)
                ended = self._next()
                if ended is None:
                    continue
                number, item, result = ended
                losses[number] += isinstance(result, _Lost)
                if isinstance(result, _Lost) and losses[number] < _LOSSES:
                    waiting.appendleft((number, item))
                else:
                    yield item, result
        finally:
            self._end(worker for worker, _ in self._fleet.busy.values())  # nobody waits for what they do
            self._fleet.busy.clear()

    def _begin(self, waiting: deque[tuple[int, T]], call: Callable[[Any, T], Any]) -> Iterator[tuple[T, Any]]:
        """Give every idle worker something to do, in place of lost workers ask for new ones."""
        fleet = self._fleet
        self._enlist(min(self.workers, len(waiting) + len(fleet.busy)))
        while waiting and fleet.idle:
            number, item = waiting.popleft()
            yield item, None
            worker = fleet.idle.popleft()
            fleet.busy[call(worker, item)] = worker, (number, item)

    def _next(self) -> tuple[int, Any, Any] | None:
        """Wait until something happens to a worker: (number, item, what came back), if that is what it was."""
        fleet = self._fleet
        done = self._ended()
        if done in fleet.starting:
            self._settle(done)
            return None
        worker, (number, item) = fleet.busy.pop(done)
        try:
            result = self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            fleet.idle.append(worker)
            raise error.cause from None
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError) as error:
            result = _Lost(_reason(error))
            self._ask_again()
        else:
            fleet.idle.append(worker)
        return number, item, result

    def _ask_again(self) -> None:
        """Idle workers may be lost too, with their machine: none gets a job before it has answered."""
        while self._fleet.idle:
            worker = self._fleet.idle.popleft()
            self._fleet.starting[worker.ready.remote()] = worker, False

    def _enlist(self, wanted: int) -> None:
        """Ask for workers in the places of those that were lost."""
        fleet = self._fleet
        for _ in range(wanted - len(fleet.starting) - len(fleet.idle) - len(fleet.busy)):
            worker = self._class.remote()
            fleet.starting[worker.ready.remote()] = worker, True

    def _settle(self, reference: Any) -> None:
        """A worker is ready, or was lost before it was."""
        fleet = self._fleet
        worker, new = fleet.starting.pop(reference)
        try:
            versions = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            fleet.stillborn += new
            if fleet.stillborn >= _DEAD_AT_BIRTH:
                raise ValueError(
                    f"workers must start, but {fleet.stillborn} in a row did not: {_reason(error)}. Install skipguide "
                    "and its requirements on all machines."
                ) from None
            self._enlist(len(fleet.starting) + len(fleet.idle) + len(fleet.busy) + 1)
            return
        fleet.stillborn = 0
        self._versions = self._versions or versions
        if versions != self._versions:
            raise ValueError(
                f"all workers must have the same versions, but one has {versions} and another {self._versions}. "
                "Install the same on all machines."
            )
        fleet.idle.append(worker)

    def close(self) -> None:
        """End the workers, and the cluster if it was started here."""
        if not self._ray.is_initialized():
            return
        fleet, self._fleet = self._fleet, _Fleet()
        self._end((*(worker for worker, _ in fleet.starting.values()), *fleet.idle))
        if self._own:
            self._ray.shutdown()

    def _end(self, workers: Iterable[Any]) -> None:
        for worker in workers:
            self._ray.kill(worker)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
