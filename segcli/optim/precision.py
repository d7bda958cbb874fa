"""Which arithmetic and memory layout train fastest here: measured, not assumed.

Sixteen bit is twice as fast for some networks on some processors and three times slower for
others (grouped convolutions), so a few real steps decide.
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_PIXELS = 2**18


@dataclasses.dataclass(frozen=True)
class Precision:
    """Arithmetic of the network: `name` fp32, bf16 or fp16, and the memory layout."""

    name: str
    channels_last: bool

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context in which the forward pass runs."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(device.type, DTYPES[self.name])

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __str__(self) -> str:
        return f"{self.name}, {'channels last' if self.channels_last else 'channels first'}"


def candidates(precision: str, channels_last: bool | None) -> list[Precision]:
    """What is tried: all that the config leaves open. fp16 is only taken when asked for."""
    names = ["fp32", "bf16"] if precision == "auto" else [precision]
    layouts = [True, False] if channels_last is None else [channels_last]
    # bf16 without channels-last pays for reordering at every layer on all machines seen.
    skip = precision == "auto" and channels_last is None
    return [
        Precision(name, layout)
        for name in names
        for layout in layouts
        if not (skip and name == "bf16" and not layout)
    ]


def choose_precision(
    model: nn.Module,
    loss: Callable[[nn.Module, Tensor], Tensor],
    *,
    size: tuple[int, int],
    batch_size: int,
    device: torch.device,
    precision: str = "auto",
    channels_last: bool | None = None,
) -> tuple[Precision, dict[str, float]]:
    """The fastest allowed arithmetic for a training step of `model`.

    Args:
        model: in train mode; a copy is measured, it stays as it is.
        loss: (model, uint8 images (N, 3, h, w)) -> scalar to differentiate.
        size, batch_size: of the real steps; timed are a quarter of a megapixel or 2 images, of
            half a megapixel each at most.

    Returns:
        The choice, and seconds per step for each candidate (empty when there was no choice):
        on a CPU those that it worked, which other programs cannot blur as they do the clock's.
    """
    options = candidates(precision, channels_last)
    if len(options) == 1:
        return options[0], {}
    shrink = max(1.0, (size[0] * size[1] / 2**19) ** 0.5)
    h, w = (max(32, round(side / shrink / 32) * 32) for side in size)
    # A step on less than this is mostly overhead, of which 16 bit has more than 32.
    count = min(batch_size, max(2, _PIXELS // (h * w)))
    images = torch.randint(0, 256, (count, 3, h, w), dtype=torch.uint8, device=device)
    trial = copy.deepcopy(model)
    turns = [partial(_timed_step, trial, loss, images, option, device) for option in options]
    for turn in turns:
        turn()  # the first one compiles kernels and fills caches
    seconds = take_turns(turns)
    chosen = min(range(len(options)), key=lambda i: seconds[i])
    return options[chosen], {str(o): s for o, s in zip(options, seconds, strict=True)}


def take_turns(
    timed: Sequence[Callable[[], float]], lead: int = 3, most: int = 8
) -> tuple[float, ...]:
    """Seconds of each of several ways, as of the fastest round in which each had its turn.

    Machines that others use change their speed twofold within a second. What ran in a slow moment
    was then taken for slow: only times from beside each other can be compared. So each way has
    its median share of a round.

    Args:
        timed: each returns the seconds of one try.
        lead: rounds that one way has to have won more often than any other.
        most: rounds at most.
    """
    rounds: list[list[float]] = []
    wins = [0] * len(timed)
    while len(rounds) < most:
        rounds.append([one() for one in timed])
        wins[rounds[-1].index(min(rounds[-1]))] += 1
        ahead = sorted(wins, reverse=True)
        if ahead[0] - sum(ahead[1:2]) >= lead:
            break
    shares = [[seconds / sum(row) for seconds in row] for row in rounds]
    fastest = min(sum(row) for row in rounds)
    return tuple(statistics.median(share) * fastest for share in zip(*shares, strict=True))


def _timed_step(
    model: nn.Module,
    loss: Callable[[nn.Module, Tensor], Tensor],
    images: Tensor,
    precision: Precision,
    device: torch.device,
) -> float:
    model.to(memory_format=precision.memory_format)
    images = images.contiguous(memory_format=precision.memory_format)
    _wait_for(device)
    now = time.process_time if device.type == "cpu" else time.perf_counter
    start = now()
    with precision.autocast(device):
        value = loss(model, images)
    value.backward()  # type: ignore[no-untyped-call]
    _wait_for(device)
    model.zero_grad(set_to_none=True)
    return now() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
