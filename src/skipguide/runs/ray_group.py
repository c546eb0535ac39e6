"""A worker of several processes on Ray, which divide the passes of each guided step.

Process 0 is the worker that the engine knows of. It starts the others as actors of its own in the
same placement group, joins them to a process group, and makes clips by `guide(...,
parallel=group)`; they run their passes and return nothing. They end with it, and a clip of which
one of them is lost is given back as that of a lost worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from skipguide.generate import run
from skipguide.generate.settings import GenerationSettings
from skipguide.pipeline import branch_plan
from skipguide.pipeline.branch_group import BranchError
from skipguide.runs.engine import GeneratedVideo
from skipguide.runs.jobs import Job, ResolvedSetting
from skipguide.runs.plan_settings import Setting
from skipguide.runs.worker import Worker

if TYPE_CHECKING:
    from PIL.Image import Image


class LostProcess(Exception):
    """A process of a worker is lost, and with it the worker."""


@dataclasses.dataclass(frozen=True)
class Place:
    """The processes of a worker and their placement group on Ray, a bundle for each.

    Args:
        group: Ray's placement group.
        size: the number of processes.
        takes: what Ray reserves for each, as options of an actor.
    """

    group: Any
    size: int
    takes: dict[str, int]

    @classmethod
    def reserve(cls, size: int, takes: dict[str, int]) -> Place:
        """Ask for a bundle for each process, on one machine if there is such a one."""
        from ray.util.placement_group import placement_group  # type: ignore[import-not-found]

        names = {"num_gpus": "GPU", "num_cpus": "CPU"}
        bundle = {names[name]: float(count) for name, count in takes.items()}
        return cls(placement_group([bundle] * size, strategy="PACK"), size, takes)

    def options(self, rank: int) -> dict[str, Any]:
        """Return the options of the actor that is this process."""
        from ray.util.scheduling_strategies import (  # type: ignore[import-not-found]
            PlacementGroupSchedulingStrategy,
        )

        where = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=rank)
        return {**self.takes, "scheduling_strategy": where}

    def free(self) -> None:
        """Give the bundles back; whatever still runs in them ends."""
        from ray.util.placement_group import (  # type: ignore[import-not-found]
            remove_placement_group,
        )

        remove_placement_group(self.group)


class _Assistant:
    """The part that runs in the processes of a worker other than the first."""

    def __init__(self) -> None:
        self._worker = Worker()

    def join(self, host: str, port: int, rank: int, size: int) -> dict[str, str]:
        """Join the process group; return the versions of the libraries here."""
        from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

        from skipguide.generate import record

        _join(TCPStore(host, port, size, is_master=False), rank, size)
        return record.library_versions()

    def load(self, generation: GenerationSettings) -> None:
        self._worker.pipe(generation)

    def assist(self, job: Job, image: Image | None) -> None:
        """Run this process's passes of a clip."""
        import torch.distributed as dist

        pipe = self._worker.pipe(job.generation)
        run.assist(pipe, job.generation, image, dist.group.WORLD)


class GroupWorker(Worker):
    """Process 0 of a worker of several processes."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place, self._assistants = place, []

    def start(self, versions: dict[str, str]) -> None:
        """Start the other processes and join them.

        Args:
            versions: of the libraries here.

        Raises:
            ValueError: if the libraries of another process have other versions.
        """
        import ray  # type: ignore[import-not-found]
        from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

        size = self._place.size
        self._assistants = [
            ray.remote(_Assistant).options(**self._place.options(rank)).remote()
            for rank in range(1, size)
        ]
        host = ray.util.get_node_ip_address()
        store = TCPStore(host, 0, size, is_master=True, wait_for_workers=False)
        joining = [
            process.join.remote(host, store.port, rank, size)
            for rank, process in enumerate(self._assistants, 1)
        ]
        _join(store, 0, size)
        for other in ray.get(joining):
            if other != versions:
                raise ValueError(
                    f"all processes of a worker must have the same versions, but one has {other}"
                    f" and another {versions}. Install the same on all machines."
                )

    def survey(self, settings: Sequence[Setting], image: Image | None) -> list[ResolvedSetting]:
        """Check also that the passes of each setting can be divided; see `Worker.survey`."""
        found, wrong = super().survey(settings, image), []
        for one in found:
            request, size = one.complete.request, self._place.size
            most = branch_plan.max_passes(request.terms)
            if not request.is_plain and size > most:
                wrong.append(
                    f"setting {one.setting.name!r} has steps of {most} passes at most, but"
                    f" --gpus-per-clip is {size}. Take {most} or fewer."
                )
            try:
                branch_plan.check_request(request)
            except ValueError as error:
                wrong.append(f"setting {one.setting.name!r} for --gpus-per-clip: {error}")
        if wrong:
            raise ValueError(" ".join(wrong))
        return found

    def make(
        self, job: Job, image: Image | None, on_step: Any = None, parallel: Any = None
    ) -> GeneratedVideo:
        """Make one clip with the other processes, or alone where there is nothing to divide.

        Raises:
            LostProcess: if one of them is lost.
            ValueError: for what the model refuses; and whatever else a generation raises.
        """
        import torch.distributed as dist

        if job.generation.request.is_plain or job.watch is not None:
            return super().make(job, image, on_step, parallel)
        loading = [process.load.remote(job.generation) for process in self._assistants]
        self.pipe(job.generation)
        _wait_for(loading)
        helping = [process.assist.remote(job, image) for process in self._assistants]
        try:
            made = super().make(job, image, on_step, parallel or dist.group.WORLD)
        except BranchError:
            _wait_for(helping)  # says whether one was lost, or what it failed of
            raise
        _wait_for(helping)
        return made


def _wait_for(calls: Sequence[Any]) -> None:
    """Wait for calls of other processes.

    Raises:
        LostProcess: if one of them is lost, whatever the others say of it.
        Exception: what one of them raised.
    """
    import ray  # type: ignore[import-not-found]

    failure = None
    for call in calls:
        try:
            ray.get(call)
        except ray.exceptions.RayTaskError as error:
            failure = error.cause
        except ray.exceptions.RayActorError as error:
            raise LostProcess(" ".join(str(error).split())[:300]) from None
    if failure is not None:
        raise failure


def _join(store: Any, rank: int, size: int) -> None:
    import torch
    import torch.distributed as dist

    # Ray shows each process its own GPU alone, so that "cuda" is the right one everywhere.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
