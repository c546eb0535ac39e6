"""The engine on Ray: one worker per GPU (or CPU), or per group of them, on this machine or many.

Each holds the model. Workers write nothing: what they make comes back to the one process that keeps
the ledger. A worker has one job at a time, so that no more results wait than there are workers. A
job whose worker is lost, with its process or its machine, is given to another one."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import PlainData
from skipguide.runs.engine import (
    Cost,
    Event,
    JobFailed,
    JobStarted,
    OnStep,
    read_start_image,
)
from skipguide.runs.jobs import Job, ResolvedSetting
from skipguide.runs.plan_settings import Setting
from skipguide.runs.ray_worker import LostWorker, RemoteWorker

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
_MAX_LOSSES = 3  # of workers under one job, before it is the job's fault
_START_TIMEOUT = 20 * 60  # seconds for machines of a cloud to come up
_POLL_SECONDS = 20  # seconds after which one looks whether there are any machines
_MAX_FAILED_STARTS = 3  # workers in a row that were lost before they were ready


def _import_ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise ValueError(
            "a sweep with --ray needs the package ray, but it is not installed. Run `pip install"
            " 'skipguide[ray]'`, or leave --ray out."
        ) from None


@dataclass
class _Fleet:
    """The workers that are starting, idle, or at a job; keys are the references that Ray
    resolves."""

    starting: dict[Any, tuple[Any, bool]] = field(
        default_factory=dict
    )  # reference -> worker, whether it is a new one
    idle: deque[Any] = field(default_factory=deque)
    busy: dict[Any, tuple[Any, Any]] = field(
        default_factory=dict
    )  # reference -> worker, (number, item)
    places: dict[Any, Any] = field(default_factory=dict)  # worker -> Place, of several processes
    failed_starts: int = 0


class RayEngine:
    """An engine with workers on Ray.

    Args:
        address: of a cluster: "auto" for the one around, or else a new one here; "local" for a new
            one here; "HOST:PORT" or "ray://HOST:PORT".
        workers: how many; None is as many as the GPUs of the cluster are enough for, or the CPUs
            where there is no GPU.
        gpus_per_clip: how many GPUs (or CPUs) each worker has, to divide the passes of a step.

    Raises:
        ValueError: if Ray is not installed, there is no such cluster, or this machine has less than
            so many workers need.
    """

    def __init__(self, address: str = "auto", workers: int | None = None, gpus_per_clip: int = 1):
        self._ray = _import_ray()
        self._owns_cluster = not self._ray.is_initialized()
        if self._owns_cluster:
            self._connect(address)
        resources = self._ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        self._takes = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": 1}
        self.gpus_per_clip = gpus_per_clip
        self.workers = workers or max((gpus or cpus) // gpus_per_clip, 1)
        self._fleet = _Fleet()
        if address == "local" and self.workers * gpus_per_clip > (gpus or cpus):  # no cluster grows
            self.close()
            kind, each = "GPU" if gpus else "CPU", f"--gpus-per-clip {gpus_per_clip}"
            raise ValueError(
                f"each worker needs a {kind} of its own, but got --workers {self.workers}"
                f"{'' if gpus_per_clip == 1 else f' and {each}'} for {gpus or cpus}. Ask for fewer."
            )
        self._class = self._ray.remote(**self._takes)(RemoteWorker)
        self._versions: dict[str, str] = {}

    def _connect(self, address: str) -> None:
        options: PlainData = {"logging_level": "error", "log_to_driver": False}
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
                f"--ray must be the address of a running cluster, but {address} does not answer:"
                f" {reason} Check the address."
            ) from None

    # --- before the jobs --------------------------------------------------------------------------

    def versions(self) -> dict[str, str]:
        """Return the versions of the first worker; all others must have the same."""
        self._first_worker()
        return self._versions

    def survey(self, settings: Sequence[Setting], image: Image | None) -> list[ResolvedSetting]:
        """Let the first worker do it; see `Worker.survey`."""
        return self._call_first_worker("survey", settings, image)

    def cost(self, complete: GenerationSettings, image: Image | None) -> Cost:
        """Let the first worker do it; see `Worker.cost`."""
        return self._call_first_worker("cost", complete, image)

    def inspect(self, generation: GenerationSettings, function: Callable[[Any], Any]) -> Any:
        """Let the first worker do it; see `Worker.inspect`."""
        return self._call_first_worker("inspect", generation, function)

    def _call_first_worker(self, name: str, *arguments: Any) -> Any:
        try:
            return self._ray.get(getattr(self._first_worker(), name).remote(*arguments))
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayActorError as error:
            raise ValueError(
                f"the worker that checked the plan was lost: {_error_summary(error)}. Check"
                " whether the machine ran out of memory."
            ) from None

    def _first_worker(self) -> Any:
        """Return a worker that is ready; all are asked for at once."""
        self._start_workers(self.workers)
        while not self._fleet.idle:
            self._finish_start(self._wait_for_any())
        return self._fleet.idle[0]

    def _wait_for_any(self) -> Any:
        """Return whatever ends first of all that workers do.

        Raises:
            ValueError: if there is no machine, or none has taken a worker for a long time; nothing
                can end then.
        """
        fleet, started = self._fleet, time.monotonic()
        while not (
            ended := self._ray.wait(
                [*fleet.busy, *fleet.starting], num_returns=1, timeout=_POLL_SECONDS
            )[0]
        ):
            if not any(node["Alive"] for node in self._ray.nodes()):
                raise ValueError(
                    "All Ray nodes were lost. Restart the cluster and run the sweep again;"
                    " finished clips are kept."
                )
            if not fleet.busy and time.monotonic() - started > _START_TIMEOUT:
                raise ValueError(
                    f"a worker must be ready within {_START_TIMEOUT // 60} minutes, but none is."
                    " Check with `ray status` that a machine has a free GPU or CPU."
                )
        return ended[0]

    # --- the jobs ---------------------------------------------------------------------------------

    def run(self, jobs: Sequence[Job], on_step: OnStep | None) -> Iterator[Event]:
        """Give the jobs, in their order, to whichever worker is idle."""
        for job, what in self._distribute(
            jobs, lambda worker, job: worker.make.remote(job, read_start_image(job.image))
        ):
            if isinstance(what, LostWorker):
                yield JobFailed(
                    job, f"the worker was lost {_MAX_LOSSES} times under this job: {what.reason}"
                )
            else:
                yield JobStarted(job) if what is None else what

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """Apply a function on the workers, as `Engine.map`.

        The function and its results are sent, so both must be small.
        """
        numbers = range(len(items))
        for _, what in self._distribute(
            numbers, lambda worker, i: worker.apply.remote(function, items[i])
        ):
            if isinstance(what, LostWorker):
                raise RuntimeError(
                    f"a worker was lost {_MAX_LOSSES} times with the same item: {what.reason}"
                )
            if what is not None:
                yield what[0]

    def _distribute(
        self, items: Iterable[T], call: Callable[[Any, T], Any]
    ) -> Iterator[tuple[T, Any]]:
        """Call workers with items: yield (item, None) before a call, then (item, its result).

        The result is a LostWorker if every worker with the item was lost.
        """
        waiting, losses = deque(enumerate(items)), Counter[int]()
        try:
            while waiting or self._fleet.busy:
                yield from self._assign_idle(waiting, call)
                ended = self._next_result()
                if ended is None:
                    continue
                number, item, result = ended
                losses[number] += isinstance(result, LostWorker)
                if isinstance(result, LostWorker) and losses[number] < _MAX_LOSSES:
                    waiting.appendleft((number, item))
                else:
                    yield item, result
        finally:
            self._kill_workers(
                worker for worker, _ in self._fleet.busy.values()
            )  # nobody waits for what they do
            self._fleet.busy.clear()

    def _assign_idle(
        self, waiting: deque[tuple[int, T]], call: Callable[[Any, T], Any]
    ) -> Iterator[tuple[T, Any]]:
        """Give every idle worker an item, and ask for new workers instead of lost ones."""
        fleet = self._fleet
        self._start_workers(min(self.workers, len(waiting) + len(fleet.busy)))
        while waiting and fleet.idle:
            number, item = waiting.popleft()
            yield item, None
            worker = fleet.idle.popleft()
            fleet.busy[call(worker, item)] = worker, (number, item)

    def _next_result(self) -> tuple[int, Any, Any] | None:
        """Wait for the next event of a worker; return (number, item, result) if an item ended."""
        fleet = self._fleet
        done = self._wait_for_any()
        if done in fleet.starting:
            self._finish_start(done)
            return None
        worker, (number, item) = fleet.busy.pop(done)
        try:
            result = self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            fleet.idle.append(worker)
            raise error.cause from None
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError) as error:
            result = LostWorker(_error_summary(error))
            self._kill_workers([worker])
            self._recheck_idle()
        else:
            self._keep_if_whole(worker, result)
        return number, item, result

    def _keep_if_whole(self, worker: Any, result: Any) -> None:
        """Keep a worker for the next item, unless its processes may no longer fit together."""
        if worker in self._fleet.places and isinstance(result, LostWorker | JobFailed):
            self._kill_workers([worker])
        else:
            self._fleet.idle.append(worker)

    def _recheck_idle(self) -> None:
        """Ask idle workers whether they still exist: they can be lost with their machine."""
        while self._fleet.idle:
            worker = self._fleet.idle.popleft()
            self._fleet.starting[worker.ready.remote()] = worker, False

    def _start_workers(self, wanted: int) -> None:
        """Ask for workers instead of those that were lost."""
        fleet = self._fleet
        for _ in range(wanted - len(fleet.starting) - len(fleet.idle) - len(fleet.busy)):
            worker = self._new_worker()
            fleet.starting[worker.ready.remote()] = worker, True

    def _new_worker(self) -> Any:
        if self.gpus_per_clip == 1:
            return self._class.remote()
        from skipguide.runs.ray_group import Place

        place = Place.reserve(self.gpus_per_clip, self._takes)
        worker = self._class.options(**place.options(0)).remote(place)
        self._fleet.places[worker] = place
        return worker

    def _finish_start(self, reference: Any) -> None:
        """Note that a worker is ready, or was lost before it was."""
        fleet = self._fleet
        worker, new = fleet.starting.pop(reference)
        try:
            versions = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._kill_workers([worker])
            fleet.failed_starts += new
            if fleet.failed_starts >= _MAX_FAILED_STARTS:
                raise ValueError(
                    f"{fleet.failed_starts} workers in a row did not start:"
                    f" {_error_summary(error)}. Install skipguide and its requirements on all"
                    " machines."
                ) from None
            self._start_workers(len(fleet.starting) + len(fleet.idle) + len(fleet.busy) + 1)
            return
        fleet.failed_starts = 0
        self._versions = self._versions or versions
        if versions != self._versions:
            raise ValueError(
                f"all workers must have the same versions, but one has {versions} and another"
                f" {self._versions}. Install the same on all machines."
            )
        fleet.idle.append(worker)

    def close(self) -> None:
        """End the workers, and the cluster if it was started here."""
        if not self._ray.is_initialized():
            return
        fleet = self._fleet
        self._kill_workers((*(worker for worker, _ in fleet.starting.values()), *fleet.idle))
        self._fleet = _Fleet()
        if self._owns_cluster:
            self._ray.shutdown()

    def _kill_workers(self, workers: Iterable[Any]) -> None:
        """End workers, whether they still exist or not, and free what they had."""
        for worker in workers:
            self._ray.kill(worker)
            if (place := self._fleet.places.pop(worker, None)) is not None:
                place.free()


def _error_summary(error: Exception) -> str:
    """Return the words of an error; of one in a worker those of its cause, not its traceback."""
    return " ".join(str(getattr(error, "cause", None) or error).split())[:300]
