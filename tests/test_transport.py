"""Batches through slots that are used again are those of a plain loader, and stay so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segcli.data.dataset import collate
from segcli.data.transport import SlotLoader
from segcli.errors import DataError


class Numbers(Dataset[Any]):
    """Views full of their index; number 13 is an error."""

    def __init__(self, target: tuple[int, ...], bad: int = -1) -> None:
        self.target, self.bad = target, bad

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | DataError:
        if index == self.bad:
            return DataError("no such file", file="13.png")
        image = torch.full((5, 7, 3), index % 251, dtype=torch.uint8)
        image[0, 0] = torch.tensor([1, 2, 3])
        return image.permute(2, 0, 1), torch.full(self.target, index % 249, dtype=torch.uint8)


def order(size: int = 3, count: int = 40) -> list[list[int]]:
    return [list(range(size * k, size * k + size)) for k in range(count)]


def loaders(data: Numbers, batches: list[list[int]], workers: int) -> Iterator[list[Any]]:
    shapes = {"image": (3, 5, 7, 3), "target": (3, *data.target)}
    yield list(DataLoader(data, batch_sampler=batches, collate_fn=collate))
    yield list(
        SlotLoader(data, batch_sampler=batches, num_workers=workers, collate=collate, **shapes)
    )


@pytest.mark.parametrize("target", [(5, 7), (4, 5, 7)])
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_and_may_be_kept(target: tuple[int, ...], workers: int) -> None:
    plain, slotted = loaders(Numbers(target), order(), workers)
    assert len(plain) == len(slotted) == 40
    for (images, targets), (images2, targets2) in zip(plain, slotted, strict=True):
        assert torch.equal(images, images2)
        assert torch.equal(targets, targets2)
        assert images2.is_contiguous(memory_format=torch.channels_last)


def test_errors_and_odd_batches_come_through() -> None:
    batches = [[0, 1, 2], [12, 13, 14], [3, 4], [5, 6, 7]]
    plain, slotted = loaders(Numbers((5, 7), bad=13), batches, 1)
    assert isinstance(slotted[1], DataError)
    assert "13.png" in str(slotted[1])
    for k in (0, 2, 3):
        assert torch.equal(plain[k][0], slotted[k][0])


def test_two_iterators_at_once_do_not_share_slots() -> None:
    data = Numbers((5, 7))
    loader = SlotLoader(
        data,
        batch_sampler=order(count=8),
        num_workers=1,
        image=(3, 5, 7, 3),
        target=(3, 5, 7),
        collate=collate,
    )
    one, two = iter(loader), iter(loader)
    firsts = [next(one), next(two), next(one), next(two)]
    assert [int(images[0, 0, 1, 1]) for images, _ in firsts] == [0, 0, 3, 3]
    # What is left unread ends with its workers.
    one.close()  # type: ignore[attr-defined]
    assert int(next(two)[0][0, 0, 1, 1]) == 6
