"""How much of a batch each of its parts holds, for losses that are means over a part.

With `accumulate` a batch goes through the network in parts, and the means of each are over its
own pixels. Weighted by what the parts hold they add up to the mean over the batch, however
unevenly labels and padding lie in it.

Shapes: N images of a part, h × w cells of the student's logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segcli import distributed
from segcli.data.mixing import UNLABELLED
from segcli.distributed import World

# What the terms and figures are means over; those that are not here are over all images.
_OVER = {
    "pixel": "pixels",
    "feature": "pixels",
    "agreement": "pixels",
    "channel": "images",
    "pairwise": "images",
}


class Cells(NamedTuple):
    """What counts in a part.

    Attributes:
        valid: bool (N, h, w), where the teacher is listened to.
        coarse: labels (n, h, w) of the n pictures that are not fine; None without any.
    """

    valid: Tensor
    coarse: Tensor | None


def part_weights(
    world: World, parts: Sequence[Cells], ignore: int, classes: Tensor | None
) -> list[dict[str, Tensor]]:
    """What each part holds of the batch, relative to an even share: 1 where parts are alike.

    Where the teacher's word weighs pixels or overrules coarse labels, how much that will be in
    each part is not known beforehand; it is taken to be even.

    Args:
        parts: what counts in each.
        ignore: label value that takes no part.
        classes: (K,) weights of the coarse labels' classes.

    Returns:
        Of each part: ``pixels``, ``images`` and ``coarse``, scalars float32.
    """
    counts = distributed.add_up(world, torch.stack([_counts(p, ignore, classes) for p in parts]))
    even = counts.sum(0).clamp(min=1e-6) / len(parts)
    names = ("pixels", "images", "coarse")
    return [dict(zip(names, row, strict=True)) for row in (counts / even).float()]


def weighed(values: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Terms by name, or figures as ``group/name``, each times what its part holds."""
    found = {}
    for name, value in values.items():
        group, _, own = name.rpartition("/")
        kind = "coarse" if "coarse" in (group, own) else _OVER.get(own, "")
        if group == "discriminator":
            kind = ""
        found[name] = value * weights[kind] if kind else value
    return found


def _counts(part: Cells, ignore: int, classes: Tensor | None) -> Tensor:
    pixels, images = part.valid.sum(), part.valid.flatten(1).any(1).sum()
    coarse = pixels.new_zeros(())
    if part.coarse is not None:
        labelled = (part.coarse != ignore) & (part.coarse != UNLABELLED)
        if classes is None:
            coarse = labelled.sum()
        else:
            coarse = classes[part.coarse.long().where(labelled, 0)].mul(labelled).sum()
    return torch.stack([pixels.double(), images.double(), coarse.double()])
