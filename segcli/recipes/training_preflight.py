"""Before step 1: what would stop a run after an hour stops it now, or is said now.

Nothing of the run changes here: weights, statistics, gradients and random streams are the
same afterwards, to the last bit.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from segcli import resources
from segcli.data.faults import glance
from segcli.data.images import read_image
from segcli.data.manifest import Sample
from segcli.data.set_faults import manifest_findings
from segcli.errors import DataError, OutputError, SegcliError
from segcli.findings import ERROR, WARNING
from segcli.recipes import training
from segcli.recipes.training import Stage, Training, validation_predictor, validation_samples

# Faults that are spelt out; segcli check knows them all.
MOST_LINES = 10
_CHECKPOINTS = ("last", "last.previous", "best", "best.previous")


def preflight(run: Training) -> None:
    """Check data, disk and shared memory, and validate one batch of the largest picture.

    Raises:
        DataError: a file that is gone or has another size, an empty split.
        OutputError: a disk that the checkpoints do not fit on.
        SegcliError: shared memory that the loader's batches do not fit in.
        MemoryShortageError: a validation that does not fit in memory.
    """
    check_data(run)
    check_disk(run)
    check_shared_memory(run)
    validation_step(run)


def check_data(run: Training) -> None:
    """Hold the files of all splits in use to the manifest, by their headers.

    Raises:
        DataError: the first fault, and how many more there are.
    """
    data = run.config.data
    uses = {"+".join(names): names for names in (data.train, data.val)}
    found = manifest_findings(run.manifest, uses)
    # Of pictures without a label the header was read when they were found.
    extra = [s for s in run.pictures[len(run.samples) :] if s.label != s.image]
    found += [fault for sample in extra for fault in glance(sample)]
    for finding in found:
        if finding.severity == WARNING:
            run.reporter.warning(finding.line())
    errors = [f for f in found if f.severity == ERROR]
    for finding in errors[:MOST_LINES] if len(errors) > 1 else []:
        run.reporter.warning(finding.line())
    _check_copies(run)
    if errors:
        first, hint = errors[0], f"segcli check {run.manifest.folder} names every fault"
        what = first.what if len(errors) == 1 else f"{len(errors)} faults, first: {first.what}"
        raise DataError(what, file=first.file, hint=hint)


def _check_copies(run: Training) -> None:
    """Packed copies and one-hot channels that training will read are there."""
    data = run.config.data
    for sample in run.pictures:
        wanted = [sample.packed if data.packed else None, sample.one_hot]
        for path in [wanted[0], wanted[1] if data.soft_targets else None]:
            if path is not None and not path.is_file():
                raise DataError(
                    "a prepared file is gone", file=path, hint="run segcli prepare-labels again"
                )


def check_disk(run: Training) -> None:
    """Make sure that there is room for the checkpoints besides those that are there already.

    Raises:
        OutputError: naming the folder, the need and the room.
    """
    tensors = run.model.state_dict().values()
    state = sum(t.numel() * t.element_size() for t in tensors)
    trainable = sum(p.numel() for group in run.optimizer.param_groups for p in group["params"])
    need = resources.checkpoint_bytes(state, trainable, run.config.train.optimizer.name)
    for name in _CHECKPOINTS:
        for file in (run.folder / name).glob("*"):
            need -= file.stat().st_size
    free = resources.free_disk(run.folder)
    if free is not None and need > free:
        raise OutputError(
            f"checkpoints take up to {resources.amount(need)}, {resources.amount(free)} is free",
            file=run.folder,
            hint="make room, or choose another folder with --runs",
        )


def check_shared_memory(run: Training) -> None:
    """Hold the batches that wait in /dev/shm, at the largest stage, to the room there.

    Raises:
        SegcliError: workers would die of it; where it may just do, there is a warning.
    """
    channels = run.label_space.num_classes if run.config.data.soft_targets else 1
    need = workers = 0
    for stage in run.stages:
        workers = training.stage_loader(at(run, stage), stage).num_workers
        factor = stage.config.resize if run.config.train.loss_at == "label" else 1.0
        height, width = stage.config.size
        waiting = resources.loader_bytes(
            stage.config.size,
            stage.config.batch_size * (1 if len(run.pictures) == len(run.samples) else 2),
            workers,
            channels=channels,
            target_size=(round(height / factor), round(width / factor)),
        )
        need = max(need, waiting)
    shortage = resources.shared_memory_shortage(need, workers)
    if shortage is None:
        return
    what, hint, certain = shortage
    if certain:
        raise SegcliError(what, hint=hint)
    run.reporter.warning(f"{what} ({hint})")


def validation_step(run: Training, most: int | None = None) -> float:
    """Predict a batch of the largest validation picture as validation will; seconds it took.

    Args:
        most: pictures in the batch at most; None takes the config's batch.

    Raises:
        MemoryShortageError: saying which settings need less.
    """
    samples = validation_samples(run)
    largest = max(samples, key=_pixels)
    alike = sum(s.size == largest.size for s in samples)
    count = min(run.config.eval.batch_size, alike, most or alike)
    height, width = run.config.eval.size or largest.size
    # The averaged weights are what is validated; they are always in eval mode.
    predictor = validation_predictor(run)
    images = [read_image(largest.image)] * count
    what = f"validation at {width}×{height}, {count} images at a time,"
    advice = "a smaller eval.batch_size, or smaller images with eval.size"
    with unchanged_streams(run.device), resources.memory_advice(what, advice):
        started = time.perf_counter()
        predictor.predict_batch(images, largest.size)
        return time.perf_counter() - started


def at(run: Training, stage: Stage) -> Training:
    """A view of the run that stands at the start of `stage`; it shares all else."""
    there = copy.copy(run)
    there.step = stage.first_step
    return there


@contextmanager
def unchanged_streams(device: torch.device) -> Iterator[None]:
    """Put every random stream back where it stood, whatever the block draws."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)


def _pixels(sample: Sample) -> int:
    return sample.size[0] * sample.size[1]
