"""Fine pictures and extra ones in the same batches: coarsely labelled, or not labelled at all.

A batch is fine pictures first, then as many extra ones. Fine pictures keep the order and the
views that they have without extra ones. Order and augmentation stay pure functions of
(seed, epoch, index).

Targets of extra pictures tell two kinds of pixels apart that labels do not: `UNLABELLED` ones,
of which a teacher can say what they are, and the ignored ones of padding, of which nobody can.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.data.dataset import StageBatches, Ticket, TrainDataset
from segcli.data.images import image_size
from segcli.data.manifest import Sample
from segcli.data.transforms import TrainTransform
from segcli.labels import IGNORE_INDEX

UNLABELLED = 254
# Keeps the order of extra pictures apart from that of fine ones.
_EXTRA_STREAM = 1


@dataclasses.dataclass(frozen=True)
class Extra:
    """Pictures that join the fine ones.

    Attributes:
        samples: coarse ones first; those without labels name their image in its place.
        coarse: how many of them have a coarse label.
    """

    samples: tuple[Sample, ...] = ()
    coarse: int = 0

    def __len__(self) -> int:
        return len(self.samples)


class MixedDataset(TrainDataset):
    """Views of fine samples by their index, and of extra ones by the indices that follow.

    Args:
        fine: as `TrainDataset` has them.
        extra: more.
        void: mark what fine labels leave out as `UNLABELLED` too.
        options: of `TrainDataset`.
    """

    def __init__(
        self,
        fine: Sequence[Sample],
        extra: Extra,
        transform: TrainTransform,
        *,
        void: bool = False,
        **options: Any,
    ) -> None:
        super().__init__([*fine, *extra.samples], transform, **options)
        self.fine = len(fine)
        self.labelled = len(fine) + extra.coarse
        self.void = void

    def view(self, ticket: Ticket) -> Any:
        """As `TrainDataset.view`, with `UNLABELLED` in the targets of extra pictures."""
        self._index = ticket[1]
        return super().view(ticket)

    def _read(self, sample: Sample) -> tuple[Any, Any]:
        if self._index >= self.labelled:
            image = super()._read(sample)[0]
            return image, Marked(_Blank((image.shape[0], image.shape[1])))
        image, label = super()._read(sample)
        if self._index >= self.fine or (self.void and label.ndim == 2):
            return image, Marked(label)
        return image, label

    def _label(self, sample: Sample) -> Any:
        return None if self._index >= self.labelled else super()._label(sample)


class Marked:
    """A label (H, W), or the packed copy of one, whose ignored pixels read as `UNLABELLED`."""

    ndim = 2

    def __init__(self, label: Any) -> None:
        self._label = label
        self.shape: tuple[int, ...] = tuple(label.shape)

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[np.uint8]:
        """uint8 (h, w) of a window."""
        pixels = np.asarray(self._label[window], np.uint8)
        return np.where(pixels == IGNORE_INDEX, np.uint8(UNLABELLED), pixels)


class _Blank:
    """The label of a picture that has none: ignored everywhere."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[np.uint8]:
        rows, columns = (len(range(*s.indices(n))) for s, n in zip(window, self.shape, strict=True))
        return np.full((rows, columns), IGNORE_INDEX, np.uint8)


class MixedBatches(StageBatches):
    """Batches of a stage, each with as many extra pictures behind its fine ones.

    Args:
        extra: how many extra pictures there are; their indices follow the `count` fine ones.
        drawn: extra pictures that earlier stages have taken.
        until: batches of this stage that have extra pictures; the others are fine alone.
        options: of `StageBatches`.
    """

    def __init__(
        self, count: int, batch_size: int, *, extra: int, drawn: int, until: int, **options: Any
    ) -> None:
        super().__init__(count, batch_size, **options)
        self.extra, self.drawn, self.until = extra, drawn, until

    @property
    def views(self) -> int:
        """Pictures in this rank's part of most batches."""
        return 2 * self.share

    def batch(self, number: int) -> list[Ticket]:
        """This rank's part of the stage's batch `number`: fine tickets, then extra ones."""
        fine = super().batch(number)
        if number >= self.until:
            return fine
        first = self.drawn + number * self.batch_size + self.rank * self.share
        return fine + [self._extra(place) for place in range(first, first + self.share)]

    def _extra(self, place: int) -> Ticket:
        """The extra picture at `place` of the run; all are seen before one comes again."""
        epoch, position = divmod(place, self.extra)
        order = np.random.default_rng([self.seed, epoch, _EXTRA_STREAM]).permutation(self.extra)
        return epoch, self.count + int(order[position])


def unlabelled_sample(name: str, image: Any) -> Sample:
    """A sample of the picture file `image` alone.

    Raises:
        DataError: no picture.
    """
    return Sample(
        id=name, image=image, label=image, one_hot=None, size=image_size(image), sha256="",
        pixels=(),
    )  # fmt: skip
