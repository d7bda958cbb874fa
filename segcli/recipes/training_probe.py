"""What each stage will cost: a few steps of a copy of the model, a few batches of the loader.

The run itself does not move: it trains on to the same bits with a probe and without one.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time

import torch
from torch import Tensor, nn

from segcli import resources
from segcli.data.watch import blame
from segcli.errors import SegcliError
from segcli.recipes import training
from segcli.recipes.training import Stage, Training
from segcli.recipes.training_freeze import frozen_stride, set_train_mode
from segcli.recipes.training_preflight import at, unchanged_streams, validation_step

# Runs shorter than this are over before a probe pays.
FEWEST_STEPS = 30
STEPS = 3
_LONGEST_S = 20.0
_Batch = tuple[Tensor, Tensor]


@dataclasses.dataclass(frozen=True)
class StageCost:
    """What a stage costs, as measured.

    Attributes:
        size: (h, w) of the crops.
        steps: of the whole stage.
        step_seconds: of one optimiser step by itself, eager, on a batch that is there.
        load_seconds: between two batches of the loader while nothing else runs.
        wait: share of the time in which the network waits for data. Workers load while it
            computes: max(0, load - step) / max(load, step). Without workers it waits for all
            of the loading: load / (load + step).
        memory: bytes. CUDA: the most that was allocated, with weights and optimiser; CPU: how
            much the process had grown at its largest.
    """

    size: tuple[int, int]
    batch_size: int
    steps: int
    step_seconds: float
    load_seconds: float
    wait: float
    overlapped: bool
    memory: int | None

    @property
    def seconds(self) -> float:
        """Of all the stage's steps, loading included, without validation."""
        both = (self.step_seconds, self.load_seconds)
        return self.steps * (max(both) if self.overlapped else sum(both))


def probe(run: Training) -> list[StageCost]:
    """Measure every stage, at most 3 steps each, and report a table with the expected end.

    Returns:
        A `StageCost` for each stage; nothing for a run that goes on from a checkpoint or is
        over in a few steps.

    Raises:
        MemoryShortageError: a training step that does not fit in memory.
        SegcliError: a picture or label of the first batches that cannot be used.
    """
    if run.step > 0 or run.total_steps < FEWEST_STEPS:
        return []
    with unchanged_streams(run.device):
        base = resources.resident_bytes() or 0
        costs = [_measure(run, index, stage, base) for index, stage in enumerate(run.stages)]
        # Loading and predicting overlap, so that predicting is what counts.
        one = validation_step(run, most=1)
    images = sum(len(run.manifest.split(name)) for name in run.config.data.val)
    _report(run, costs, one * images * _validations(run))
    return costs


def _measure(run: Training, index: int, stage: Stage, base: int) -> StageCost:
    batches, load, overlapped = _load(run, stage)
    key = f"train.stages.{index}"
    height, width = stage.config.size
    what = f"a training step of stage {index + 1} ({width}×{height}, batch {len(batches[0][0])})"
    hint = f"{key}.accumulate=2 or more, a smaller {key}.batch_size or {key}.size"
    with resources.memory_advice(what, hint):
        step, memory = _take_steps(run, stage, batches, base)
    wait = max(0.0, load - step) / max(load, step) if overlapped else load / (load + step)
    return StageCost(
        size=stage.config.size,
        batch_size=stage.config.batch_size,
        steps=stage.end_step - stage.first_step,
        step_seconds=step,
        load_seconds=load,
        wait=wait,
        overlapped=overlapped,
        memory=memory,
    )


# --- data ------------------------------------------------------------------------------------


def _load(run: Training, stage: Stage) -> tuple[list[_Batch], float, bool]:
    """(a few batches, seconds between batches, whether workers load them)."""
    loader = training.stage_loader(at(run, stage), stage)
    workers = int(loader.num_workers)
    # Workers that started together finish together: only whole rounds of them tell the rate.
    rounds = max(1, workers)
    most = max(STEPS, 2 * workers)
    batches: list[_Batch] = []
    times = [time.perf_counter()]
    try:
        for batch in loader:
            if isinstance(batch, SegcliError):
                raise batch
            times.append(time.perf_counter())
            if len(batches) < STEPS:
                batches.append(batch)
            if len(times) > most or times[-1] - times[0] > _LONGEST_S:
                break
    except RuntimeError as error:
        raise blame(error, loader.dataset.log, run.pictures) from None
    # The first round pays for starting workers and for importing what they need.
    first = rounds if len(times) > rounds + 1 else len(times) - 2
    return batches, (times[-1] - times[first]) / max(1, len(times) - 1 - first), workers > 0


# --- steps -----------------------------------------------------------------------------------


def _take_steps(
    run: Training, stage: Stage, batches: list[_Batch], base: int
) -> tuple[float, int | None]:
    """(seconds of the fastest step after the first, bytes) of a copy of model and optimiser."""
    # One copy of both, so that the optimiser's copy holds the parameters of the model's.
    model, optimizer = copy.deepcopy((run.model, run.optimizer))
    # As in its last epoch, when most of it learns.
    last = stage.first_epoch + stage.config.epochs - 1
    set_train_mode(model, run.config.train, frozen_stride(run.config.train, stage, last))
    own = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    on_cuda = run.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(run.device)
    else:
        resources.peak_resident_bytes(reset=True)
    seconds: list[float] = []
    # Processes that exchange statistics in their layers must all take the same steps.
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    started = time.perf_counter()
    for number in range(STEPS):
        seconds.append(_step(run, stage, model, optimizer, batches[number % len(batches)]))
        # The first step pays for memory and for choosing algorithms: one more always counts.
        if number and not together and time.perf_counter() - started > _LONGEST_S:
            break
    if on_cuda:
        memory: int | None = torch.cuda.max_memory_allocated(run.device) - own
    else:
        peak = resources.peak_resident_bytes()
        memory = None if peak is None else max(0, peak - base)
    return min(seconds[1:]), memory


def _step(
    run: Training, stage: Stage, model: nn.Module, optimizer: torch.optim.Optimizer, batch: _Batch
) -> float:
    _wait_for(run.device)
    started = time.perf_counter()
    images = batch[0].to(run.device, non_blocking=True)
    images = images.contiguous(memory_format=run.precision.memory_format)
    target = batch[1].to(run.device, non_blocking=True)
    parts = stage.config.accumulate
    optimizer.zero_grad(set_to_none=True)
    there = at(run, stage)
    for views, labels in training.parts_of(there, images, target, parts):
        losses = training.step_losses(there, model, views, labels)
        total = losses["total"] + losses.get("taught", 0.0)
        (total / parts).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    _wait_for(run.device)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- report ----------------------------------------------------------------------------------


def _validations(run: Training) -> int:
    """How often the run validates: every so many epochs, and at the end."""
    epochs = sum(stage.config.epochs for stage in run.stages)
    return math.ceil(epochs / run.config.train.validate_every)


def _report(run: Training, costs: list[StageCost], validation: float) -> None:
    columns = ("stage", "size", "batch", "steps", "s/step", "data wait", "memory", "minutes")
    rows = [
        [
            str(number),
            f"{cost.size[1]}×{cost.size[0]}",
            str(cost.batch_size),
            str(cost.steps),
            f"{cost.seconds / cost.steps:.3g}",
            f"{100 * cost.wait:.0f} %",
            "-" if cost.memory is None else resources.amount(cost.memory),
            f"{cost.seconds / 60:.1f}",
        ]
        for number, cost in enumerate(costs, 1)
    ]
    run.reporter.table("Expected cost of each stage, measured on a few steps", columns, rows)
    minutes = (sum(cost.seconds for cost in costs) + validation) / 60
    end = time.strftime("%a %H:%M", time.localtime(time.time() + 60 * minutes))
    run.reporter.message(
        f"expected end: {end}, in {minutes:.1f} min, {validation / 60:.1f} of them validation"
    )
    slow = [(number, cost) for number, cost in enumerate(costs, 1) if cost.wait > 0.2]
    if slow:
        number, cost = max(slow, key=lambda pair: pair[1].wait)
        run.reporter.warning(
            f"stage {number} waits for data {100 * cost.wait:.0f} % of its time "
            "(more data.workers, or labels packed with prepare-labels --pack)"
        )
