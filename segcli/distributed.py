"""What torchrun tells a process, and the few things that processes say to each other.

A run without torchrun is a world of one: every function here is then the identity, and no
process group is made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from segcli.errors import SegcliError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")
# A validation or a checkpoint of rank zero may keep the others waiting for this long.
_PATIENCE = datetime.timedelta(minutes=60)


class PeerError(SegcliError):
    """Another process that trains with this one has ended."""


@dataclasses.dataclass(frozen=True)
class World:
    """The place of this process among all.

    Attributes:
        rank: 0..size - 1 over all machines; rank zero writes the files and speaks.
        local_rank: on this machine, which is also the number of its CUDA device.
        size: processes in all.
        local_size: processes on this machine.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's part of `items`: every rank's parts together are all, each once."""
        return list(items[self.rank :: self.size])


def world() -> World:
    """The world that torchrun's environment variables describe.

    Raises:
        UsageError: variables that are no numbers.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    defaults = ("0", "0", "1", os.environ.get("WORLD_SIZE", "1"))
    try:
        values = [int(os.environ.get(n, d)) for n, d in zip(names, defaults, strict=True)]
    except ValueError:
        raise UsageError(f"{', '.join(names)} are not all numbers", hint="use torchrun") from None
    return World(*values)


def launcher() -> str:
    """Names the job that started this process, the same after an elastic restart; "" for none.

    That is torchrun's ``--rdzv-id``; where none was given, its own process stands in for it.
    """
    run = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if run != "none":
        return run
    started = ""
    with contextlib.suppress(OSError, IndexError):
        # In a container the same number comes up again; the time it was started does not.
        started = Path(f"/proc/{os.getppid()}/stat").read_text().rsplit(")", 1)[1].split()[19]
    return f"{socket.gethostname()}/{os.getppid()}/{started}"


@contextmanager
def process_group(device: torch.device) -> Iterator[World]:
    """Join the other processes for as long as the block lasts."""
    place = world()
    if place.size == 1:
        yield place
        return
    import torch
    from torch import distributed

    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        _join("nccl" if device.type == "cuda" else "gloo", place)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:120]
        raise PeerError(f"rank {place.rank} cannot reach the others ({text})") from error
    try:
        yield place
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or re.search(r"gloo|NCCL", str(error)):
            raise PeerError(
                f"rank {place.rank}: another process of this job is gone",
                hint="what ended it stands in its own output; torchrun --max-restarts goes on",
            ) from error
        raise
    finally:
        distributed.destroy_process_group()


def _join(backend: str, place: World) -> None:
    from torch import distributed
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    # On one machine torchrun keeps its key-value store over a restart, and the addresses of
    # the dead processes with it: every attempt has keys of its own.
    alone = os.environ.get("GROUP_WORLD_SIZE") == "1"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if alone else "0"
    store, _, _ = next(rendezvous("env://", timeout=_PATIENCE))
    distributed.init_process_group(
        backend,
        store=PrefixStore(f"segcli/{attempt}", store),
        rank=place.rank,
        world_size=place.size,
        timeout=_PATIENCE,
    )


def from_main(place: World, value: T) -> T:
    """Rank zero's `value`, any picklable object, on every rank."""
    if place.size == 1:
        return value
    from torch import distributed

    box: list[Any] = [value]
    distributed.broadcast_object_list(box, src=0)
    result: T = box[0]
    return result


def from_all(place: World, value: T) -> list[T]:
    """Every rank's `value`, any picklable object, in the order of ranks, on every rank."""
    if place.size == 1:
        return [value]
    from torch import distributed

    box: list[Any] = [None] * place.size
    distributed.all_gather_object(box, value)
    return box


def add_up(place: World, tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all ranks, in place; the same bits on each of them."""
    if place.size > 1:
        from torch import distributed

        distributed.all_reduce(tensor)
    return tensor


def buffers_from_main(place: World, module: nn.Module) -> None:
    """Give every rank rank zero's buffers: batch norm statistics differ where it is not synced."""
    if place.size > 1:
        from torch import distributed

        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)


def wait(place: World) -> None:
    """Return when every rank has come here."""
    if place.size > 1:
        from torch import distributed

        distributed.barrier()
