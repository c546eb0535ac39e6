"""The processes that divide the passes of a step, and what goes between them.

Beside the group that a user hands over there is one of our own, over gloo: it carries everything on
the CPU, and a process that fails leaves it, which ends at once every wait of the others. Tensors of
a GPU go through the user's group where that is NCCL's, else by way of the CPU.

Bytes are sent as they are, so that what arrives is equal to the last bit, and it is laid out in
memory as it was, by which sums are rounded."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

from skipguide.weak import patching

Tensor = torch.Tensor
_HEADER_BYTES = 4096
_FAILURE = "failure"  # the key under which the words of the process that failed first are
_made: Counter[str] = Counter()  # groups of our own so far, by their ranks


class BranchError(RuntimeError):
    """A run in several processes ended because another process failed or was lost."""


class BranchGroup:
    """The processes of one handle of guide().

    Args:
        parallel: a process group, or one dimension of a DeviceMesh. Every process of it makes one
            of these at the same time.
        most: how many processes there may be.

    Raises:
        ValueError: for anything else, a group that this process is not in, or more processes.
        BranchError: if another process failed meanwhile.
    """

    def __init__(self, parallel: Any, most: int):
        group = _group_of(parallel)
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.size > most:
            raise ValueError(
                "parallel must have no more processes than a step has passes, but has"
                f" {self.size}, and a step has {most} at most: c, u and a weak pass for each STG"
                f" term. Start {most}; within a pass, tokens can be divided by context parallelism."
            )
        self.bytes_sent = 0  # by this process
        self._data = group
        ranks = dist.get_process_group_ranks(group)
        # new_group() would meet under the same name again after a group has been left.
        self._store = dist.distributed_c10d.PrefixStore(
            f"skipguide/{ranks}/{_made[str(ranks)]}", _default_store()
        )
        _made[str(ranks)] += 1
        self._wire: Any = self._store  # not None, for the next line
        with self._explained():
            self._wire = dist.ProcessGroupGloo(
                self._store, self.rank, self.size, timeout=_timeout_of(group)
            )
        self._under_way: list[tuple[Any, Tensor]] = []  # what is sent must live until it is

    # --- what all do together ---------------------------------------------------------------------

    def agree(self, words: str, details: str = "") -> None:
        """Check that all processes are at the same point of the same run.

        Args:
            words: what must be the same in all of them.
            details: what must be so too, but is not told.

        Raises:
            ValueError: if one of them is elsewhere.
            BranchError: if another process failed.
        """
        digest = hashlib.sha256(f"{words}/{details}".encode()).digest()
        own = torch.frombuffer(bytearray(digest[:8]), dtype=torch.int64)
        all_digests = [torch.empty_like(own) for _ in range(self.size)]
        with self._explained():
            self._wire.allgather([all_digests], [own]).wait()
        other = [rank for rank, found in enumerate(all_digests) if found != all_digests[0]]
        if other:
            raise ValueError(
                "all processes of parallel= must guide and call the pipeline with the same"
                f" arguments, but process {other[0]} has other terms or sizes than process 0, or is"
                f" at another step. Here it is {words}."
            )

    def broadcast(self, tensors: Sequence[Tensor], source: int) -> list[Tensor]:
        """Return the tensors that process `source` has.

        Args:
            tensors: there those to send, elsewhere any of the same shapes, dtypes and devices.
        """
        sends = self.rank == source
        flats = [_to_bytes(x) if sends else _empty_bytes(x) for x in tensors]
        self.bytes_sent += sends * sum(len(flat) for flat in flats) * (self.size - 1)
        with self._explained():
            carried = [(flat, self._carry(flat, copy=sends)) for flat in flats if len(flat)]
            works = [self._begin_broadcast(wired, source) for _, wired in carried]
            for work in works:
                work.wait()
        if sends:
            return list(tensors)
        for flat, wired in carried:
            if wired is not flat:
                flat.copy_(wired)
        return [_from_bytes(flat, like) for flat, like in zip(flats, tensors, strict=True)]

    def _begin_broadcast(self, wired: Tensor, source: int) -> Any:
        if wired.device.type != "cpu":
            return dist.broadcast(wired, group=self._data, group_src=source, async_op=True)
        options = dist.BroadcastOptions()
        options.rootRank = source
        return self._wire.broadcast([wired], options)

    # --- from one to another ----------------------------------------------------------------------

    def send(self, tensors: Sequence[Tensor], to: int) -> None:
        """Begin to send tensors that the other process knows the sizes of."""
        for tensor in tensors:
            self._begin_to_send(_to_bytes(tensor), to)

    def receive(self, like: Sequence[Tensor], source: int) -> list[Tensor]:
        """Return what the other process sends, of the shapes, dtypes and devices of `like`."""
        return [_from_bytes(self._receive_bytes(_empty_bytes(x), source), x) for x in like]

    def send_value(self, slot: int, value: Any, to: int) -> None:
        """Begin to send a tensor, or tuples of them and of None, with a number that names it."""
        words = json.dumps([slot, _describe(value)]).encode()
        if len(words) > _HEADER_BYTES:
            raise ValueError(
                f"a state must be described in {_HEADER_BYTES} bytes to be sent, but this one takes"
                f" {len(words)}. Pass share_prefix=False."
            )
        header = torch.frombuffer(bytearray(words.ljust(_HEADER_BYTES)), dtype=torch.uint8)
        self._begin_to_send(header, to)
        self.send(list(patching.iter_tensors(value)), to)

    def receive_value(self, source: int, device: torch.device) -> tuple[int, Any]:
        """Return the next number and value that the other process sends."""
        header = self._receive_bytes(torch.empty(_HEADER_BYTES, dtype=torch.uint8), source)
        slot, description = json.loads(bytes(header.tolist()))
        return slot, self._receive_described(description, source, device)

    def _receive_described(self, description: Any, source: int, device: torch.device) -> Any:
        if description is None:
            return None
        if "items" in description:
            return tuple(
                self._receive_described(item, source, device) for item in description["items"]
            )
        dtype, strides = getattr(torch, description["dtype"]), description["strides"]
        like = torch.empty_strided(description["shape"], strides, dtype=dtype, device=device)
        return self.receive([like], source)[0]

    def finish_sends(self) -> None:
        """Wait until everything is sent."""
        with self._explained():
            for work, _ in self._under_way:
                work.wait()
        self._under_way = []

    def _begin_to_send(self, flat: Tensor, to: int) -> None:
        if not len(flat):
            return
        self.bytes_sent += len(flat)
        with self._explained():
            wired = self._carry(flat, copy=True)
            if wired.device.type == "cpu":
                work: Any = self._wire.send([wired], to, 0)
            else:
                work = dist.isend(wired, group=self._data, group_dst=to)
            self._under_way.append((work, wired))

    def _receive_bytes(self, flat: Tensor, source: int) -> Tensor:
        if not len(flat):
            return flat
        with self._explained():
            wired = self._carry(flat, copy=False)
            if wired.device.type == "cpu":
                work: Any = self._wire.recv([wired], source, 0)
            else:
                work = dist.irecv(wired, group=self._data, group_src=source)
            work.wait()
        return flat if wired is flat else flat.copy_(wired)

    def _carry(self, flat: Tensor, copy: bool) -> Tensor:
        """Return the buffer that travels: the tensor itself, or one on the CPU that gloo takes."""
        by_gloo = f"{flat.device.type}:gloo" in dist.get_backend_config(self._data).split(",")
        if flat.device.type == "cpu" or not by_gloo:
            return flat
        return flat.cpu() if copy else torch.empty_like(flat, device="cpu")

    # --- the end ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        if self._wire is None:
            raise BranchError(
                "this guidance ended with an error in one of its processes. Start all of them"
                " again."
            )
        try:
            yield
        except RuntimeError as error:
            raise self._explain() from error

    def _explain(self) -> BranchError:
        """Return what became of the run, in the words of the process that failed first."""
        with contextlib.suppress(RuntimeError):  # the store was lost too
            if self._store.check([_FAILURE]):
                return BranchError(self._store.get(_FAILURE).decode())
        return BranchError(
            f"one of the {self.size} processes of parallel= was lost (ended from outside, out of"
            " memory, or its machine is gone), or did nothing for too long. No result was made."
            " Start all of them again."
        )

    def fail(self, error: BaseException | None) -> None:
        """Tell the others that this process has failed, which ends their waits; then leave."""
        if self._wire is None:
            return
        with contextlib.suppress(RuntimeError):
            if not isinstance(error, BranchError) and not self._store.check([_FAILURE]):
                what = "ended its call" if error is None else f"{type(error).__name__}: {error}"
                self._store.set(_FAILURE, f"process {self.rank} of {self.size} failed: {what}")
        self.close()

    def close(self) -> None:
        """Leave the group of our own; whoever waits for this process then gets an error."""
        self._wire, self._under_way = None, []


def _group_of(parallel: Any) -> Any:
    group = parallel.get_group() if hasattr(parallel, "get_group") else parallel
    known = dist.is_available() and dist.is_initialized() and isinstance(group, dist.ProcessGroup)
    if not known or dist.get_rank(group) < 0:
        raise ValueError(
            "parallel must be a process group of torch.distributed that this process is in, or one"
            f" dimension of a DeviceMesh, but got {parallel!r}. Call"
            " torch.distributed.init_process_group() and pass torch.distributed.group.WORLD."
        )
    return group


def _default_store() -> Any:
    return dist.distributed_c10d._get_default_store()


def _timeout_of(group: Any) -> Any:
    """Return how long operations of a group may take; None where it does not say."""
    for device in ("cpu", "cuda"):
        with contextlib.suppress(RuntimeError, AttributeError):
            return group._get_backend(torch.device(device)).options._timeout
    return None


# --- bytes ----------------------------------------------------------------------------------------


def _to_bytes(x: Tensor) -> Tensor:
    return x.detach().contiguous().reshape(-1).view(torch.uint8)


def _empty_bytes(like: Tensor) -> Tensor:
    return torch.empty(like.numel() * like.element_size(), dtype=torch.uint8, device=like.device)


def _from_bytes(flat: Tensor, like: Tensor) -> Tensor:
    x = flat.view(like.dtype).reshape(like.shape)
    return x if like.is_contiguous() else torch.empty_like(like).copy_(x)


def _describe(value: Any) -> Any:
    """Return a value without its numbers, as JSON has it."""
    if value is None:
        return None
    if torch.is_tensor(value):
        dtype = str(value.dtype).removeprefix("torch.")
        return {"dtype": dtype, "shape": list(value.shape), "strides": list(value.stride())}
    if isinstance(value, tuple):
        return {"items": [_describe(item) for item in value]}
    raise ValueError(
        "a state that is sent to another process must be of tensors and tuples of them, but has a"
        f" {type(value).__name__}. Pass share_prefix=False."
    )
