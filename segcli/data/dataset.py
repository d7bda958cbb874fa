"""Manifest to batches. Order and augmentation are pure functions of (seed, epoch, index).

Workers hold no state: a sampler hands them (epoch, index) pairs and every view is computed
from these, so that any number of workers gives the same batches, and a run that stops in
mid-epoch goes on exactly there.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segcli.data.images import read_image, read_label
from segcli.data.manifest import Sample
from segcli.data.onehot import load_one_hot
from segcli.data.pack import open_pack
from segcli.data.transforms import TrainTransform
from segcli.data.transport import SlotLoader
from segcli.data.watch import WorkerLog
from segcli.environment import die_with_parent
from segcli.errors import ConfigError, DataError

Ticket = tuple[int, int]
View = tuple[Tensor, Tensor]


class TrainDataset(Dataset[View | DataError]):
    """Augmented views of prepared samples.

    Args:
        samples: of the manifest; their order defines the index.
        transform: the pipeline of this stage.
        seed: of the experiment.
        num_classes: K, to check labels.
        soft_targets: read the one-hot channels in place of the class indices.
        packed: cut from the packed copy where a sample has one.
        log: where workers note what they are at; None makes one.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        transform: TrainTransform,
        *,
        seed: int,
        num_classes: int,
        soft_targets: bool = False,
        packed: bool = True,
        log: WorkerLog | None = None,
    ) -> None:
        self.samples = tuple(samples)
        self.transform = transform
        self.seed = seed
        self.num_classes = num_classes
        self.soft_targets = soft_targets
        self.packed = packed
        self.log = log or WorkerLog()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, ticket: Ticket) -> View | DataError:
        """Image uint8 (3, h, w) and target uint8 (h, w) or (K, h, w) for (epoch, index).

        A file that cannot be used comes back as the error that names it: raised in a worker
        process, it would reach the user as a traceback in a string.
        """
        self.log.begin(ticket[1])
        try:
            return self.view(ticket)
        except DataError as error:
            return error
        except Exception as error:
            # Whatever else a file can make a library raise, the file has to be named.
            text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            return DataError(f"cannot be used ({text})", file=self.samples[ticket[1]].image)
        finally:
            self.log.end()

    def view(self, ticket: Ticket) -> View:
        """As `__getitem__`.

        Raises:
            DataError: naming the file that cannot be used.
        """
        epoch, index = ticket
        sample = self.samples[index]
        image, label = self._read(sample)
        if image.shape[:2] != label.shape[-2:]:
            raise DataError(
                f"image is {image.shape[0]}×{image.shape[1]} but its label "
                f"{label.shape[-2]}×{label.shape[-1]}",
                file=sample.label,
                hint="run segcli prepare-labels again",
            )
        rng = np.random.default_rng([self.seed, epoch, index])
        view, target = self.transform(image, label, rng)
        # (h, w, 3) memory seen as (3, h, w): a batch of these is channels-last already.
        return torch.from_numpy(view).permute(2, 0, 1), torch.from_numpy(target)

    def _read(self, sample: Sample) -> tuple[Any, Any]:
        """Image and label, decoded or ready to be cut from the packed copy."""
        if not self.packed or sample.packed is None:
            return read_image(sample.image), self._label(sample)
        image, label = open_pack(sample.packed, sample.image, sample.sha256)
        return image, self._label(sample) if self.soft_targets else label

    def _label(self, sample: Sample) -> Any:
        if not self.soft_targets:
            return read_label(sample.label, num_classes=self.num_classes)
        if sample.one_hot is None:
            raise DataError(
                "no one-hot channels for this label",
                file=sample.label,
                hint="run segcli prepare-labels --one-hot, or set data.soft_targets=false",
            )
        return load_one_hot(sample.one_hot)


def epoch_order(count: int, *, seed: int, epoch: int) -> list[int]:
    """The permutation of range(count) in which an epoch visits the samples."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return [int(i) for i in order]


class StageBatches(Sampler[list[Ticket]]):
    """Batches of (epoch, index) from `start` to the end of a stage, in one stream.

    The last, incomplete batch of an epoch is dropped, unless the whole epoch is smaller than
    a batch: then it is filled up from the start of the same order.

    Args:
        count: samples in the data set.
        batch_size: samples in a batch.
        epochs: in this stage.
        first_epoch: number of the stage's first epoch in the run.
        seed: of the experiment.
        start: batches of this stage already trained on.
        rank, world: of the processes that share every batch, each taking its own part.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        epochs: int,
        first_epoch: int,
        seed: int,
        start: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size % world:
            raise ConfigError(
                f"batch_size {batch_size} does not divide among {world} processes",
                hint="batch_size counts the images of all processes together",
            )
        self.count = count
        self.batch_size = batch_size
        self.epochs = epochs
        self.first_epoch = first_epoch
        self.seed = seed
        self.start = start
        self.rank, self.share = rank, batch_size // world
        self.per_epoch = batches_per_epoch(count, batch_size)

    @property
    def views(self) -> int:
        """Pictures in this rank's part of a batch."""
        return self.share

    def __len__(self) -> int:
        return self.per_epoch * self.epochs - self.start

    def __iter__(self) -> Iterator[list[Ticket]]:
        for number in range(self.start, self.per_epoch * self.epochs):
            yield self.batch(number)

    def batch(self, number: int) -> list[Ticket]:
        """This rank's part of the stage's batch `number`."""
        epoch = self.first_epoch + number // self.per_epoch
        order = epoch_order(self.count, seed=self.seed, epoch=epoch)
        begin = number % self.per_epoch * self.batch_size + self.rank * self.share
        return [(epoch, order[i % self.count]) for i in range(begin, begin + self.share)]


def batches_per_epoch(count: int, batch_size: int) -> int:
    """Whole batches in an epoch, at least one."""
    return max(1, count // batch_size)


def _start_worker(_: int, *, gives_way: bool) -> None:
    cv2.setNumThreads(0)
    # Ctrl-C and a stopping machine signal the whole group; the main process decides, and
    # needs its workers until it has written its checkpoint.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    # On a CPU the cores belong to the network. A worker that shares one as an equal holds up
    # every thread of the step it is loading for; one with no share at all, at 19, starves
    # beside another job, and the training with it.
    if gives_way:
        with contextlib.suppress(OSError, AttributeError):
            os.nice(10)


def train_loader(
    dataset: TrainDataset,
    batches: StageBatches,
    *,
    workers: int,
    pin_memory: bool,
    timeout: float = 0.0,
) -> DataLoader[View | DataError]:
    """Batches of uint8 (N, 3, h, w) in channels-last memory and uint8 targets, or an error.

    A worker that dies, or gives nothing for `timeout` seconds (0 waits for ever), raises a
    RuntimeError in the consumer; `watch.blame` makes it one that names the sample.
    """
    options: dict[str, Any] = {
        "batch_sampler": batches,
        "num_workers": workers,
        "worker_init_fn": partial(_start_worker, gives_way=not pin_memory),
        "prefetch_factor": 4 if workers else None,
        "timeout": timeout if workers else 0,
    }
    if pin_memory or not workers:
        return DataLoader(dataset, collate_fn=collate, pin_memory=pin_memory, **options)
    shape, channels = dataset.transform, (dataset.num_classes,) * dataset.soft_targets
    return SlotLoader(
        dataset,
        image=(batches.views, *shape.size, 3),
        target=(batches.views, *channels, *shape.target_size),
        collate=collate,
        **options,
    )


def collate(items: list[View | DataError]) -> View | DataError:
    """Stack views, whose images keep their channels-last memory; or the first error."""
    views = [item for item in items if not isinstance(item, DataError)]
    for item in items:
        if isinstance(item, DataError):
            return item
    images = torch.stack([v.permute(1, 2, 0) for v, _ in views]).permute(0, 3, 1, 2)
    return images, torch.stack([t for _, t in views])
