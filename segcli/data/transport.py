"""Batches from loader workers through memory that is used again.

A fresh piece of shared memory for each batch costs a page fault per 4 KiB: 2 ms of the 13 ms
that a 512×1024 view costs in all. Here every worker writes its batches into slots of its own, in
turns, and the consumer gets copies, which may be kept for as long as one likes.

Shapes: images uint8 (N, 3, h, w) in channels-last memory; targets uint8 (N, h', w'), or
(N, K, h', w').
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Slots:
    """Room for batches of one shape, a ring of `count` for each worker.

    A worker has at most `count - 1` batches that the consumer has not asked for yet, so that the
    slot it writes to has been copied from before.
    """

    def __init__(
        self, workers: int, count: int, image: tuple[int, ...], target: tuple[int, ...]
    ) -> None:
        self.images = _shared((workers, count, *image))
        self.targets = _shared((workers, count, *target))
        self.count = count
        self.written = 0

    def put(self, items: list[Any]) -> tuple[int, int] | None:
        """Called in a worker: (worker, slot) of the batch, None when it is of another shape."""
        info = torch.utils.data.get_worker_info()
        if info is None or len(items) != self.images.shape[2]:
            return None
        place = (info.id, self.written % self.count)
        images, targets = self.images[place], self.targets[place]
        for view, target in items:
            if view.permute(1, 2, 0).shape != images.shape[1:] or target.shape != targets.shape[1:]:
                return None
        for number, (view, target) in enumerate(items):
            images[number] = view.permute(1, 2, 0)
            targets[number] = target
        self.written += 1
        return place

    def take(self, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Called by the consumer: copies of images and targets."""
        # By numpy: threads that torch would wake for it cost more than they save.
        images, targets = (part[place].numpy().copy() for part in (self.images, self.targets))
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(targets)


class SlotLoader(DataLoader[Any]):
    """A `DataLoader` with workers whose batches come through `Slots`, the same to the bit.

    Args:
        image: (N, h, w, 3), the shape of a batch of images in memory.
        target: shape of a batch of targets.
        collate: what makes a batch of anything that has no slot: an error, another shape.
        options: of `DataLoader`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        image: tuple[int, ...],
        target: tuple[int, ...],
        collate: Callable[[list[Any]], Any],
        **options: Any,
    ) -> None:
        super().__init__(dataset, collate_fn=collate, **options)
        self.image_shape, self.target_shape, self.collate = image, target, collate

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches in order, or what `collate` makes; an iterator of its own has its own slots."""
        # One more than are under way: the next is asked for before the last is copied.
        count = (self.prefetch_factor or 2) + 1
        slots = Slots(self.num_workers, count, self.image_shape, self.target_shape)
        self.collate_fn = _Put(slots, self.collate)
        batches = super().__iter__()
        try:
            for batch in batches:
                yield slots.take(batch.place) if isinstance(batch, _Place) else batch
        finally:
            # Without waiting for the collector: a traceback may hold this frame for ever.
            close = getattr(batches, "_shutdown_workers", None)
            if close is not None:
                close()


class _Place:
    """Where a batch lies; a type of its own, which no batch has."""

    def __init__(self, place: tuple[int, int]) -> None:
        self.place = place


class _Put:
    """What collates in the workers; a class, so that it can be pickled to one."""

    def __init__(self, slots: Slots, collate: Callable[[list[Any]], Any]) -> None:
        self.slots, self.collate = slots, collate

    def __call__(self, items: list[Any]) -> Any:
        if all(isinstance(item, tuple) for item in items):
            place = self.slots.put(items)
            if place is not None:
                return _Place(place)
        return self.collate(items)


def _shared(shape: tuple[int, ...]) -> Tensor:
    # `share_memory_` would copy, and so touch, what nobody has written yet.
    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
