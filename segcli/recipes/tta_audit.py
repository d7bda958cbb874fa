"""The audit of test-time augmentation: what each view is worth, alone and in the mean.

A view can be bad for two reasons. It may be misaligned: its way back does not put the classes
where they were, as when padding is flipped with the picture; that is an error, and named as
one. Or the network knows too little of pictures at that scale; then the view is honest and
simply not worth its time. Scores alone cannot tell the two apart: positions can.

Shapes: K classes, V views, C sets of views; a strip of rows is (K, rows, W).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcli.data.images import read_image, read_label
from segcli.data.manifest import Sample
from segcli.errors import DataError
from segcli.inference.alignment import Alignment, Brightness, Fit
from segcli.inference.predictor import Predictor
from segcli.inference.tta import PLAIN, TTA, View
from segcli.inference.upsample import argmax, upsample_rows
from segcli.metrics.confusion import ConfusionMatrix, scores
from segcli.parallel import map_ahead
from segcli.recipes.tta_audit_verdict import Audit, displacement, report, to_dict
from segcli.reporting.events import NullReporter, Reporter

Map = NDArray[np.uint8]
Views = tuple[View, ...]
# Pictures on which positions are compared: each has tens of thousands of border pixels.
ALIGNMENT_IMAGES = 8
# Bytes of probabilities, of all views and sets, that are looked at together.
_STRIP = 2**25


def tta_audit(
    predictor: Predictor,
    samples: Sequence[Sample],
    tta: TTA | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Score every view, their mean, the mean without each, and a few smaller sets.

    Args:
        predictor: its own TTA, if any, plays no part.
        samples: labelled images, scored at their labels' resolution.
        tta: the views; None is the default of `TTA`.

    Returns:
        Plain JSON types, see `tta_audit_verdict.to_dict`.

    Raises:
        DataError: an image or label that cannot be read, or none at all.
    """
    reporter, tta = reporter or NullReporter(), tta or TTA()
    if not samples:
        raise DataError("no images to audit TTA on")
    averaged = tta.views()
    views = (PLAIN, *(view for view in averaged if view != PLAIN))
    fits = _positions(predictor, _few(samples), views)
    sets = view_sets(averaged, [view for view, fit in fits.items() if displacement(fit)])
    members = [(view,) for view in views] + list(sets.values())
    drifts = {view: Alignment() for view in views[1:]}
    matrices = _score(predictor, samples, members, drifts, reporter)
    results = [scores(matrix, predictor.label_space) for matrix in matrices]
    audit = Audit(
        images=len(samples),
        averaged=averaged,
        fits=fits,
        drifts={view: alignment.fit() for view, alignment in drifts.items()},
        alone=dict(zip(views, results, strict=False)),
        sets=dict(zip(sets.values(), results[len(views) :], strict=True)),
        names={members: name for name, members in sets.items()},
    )
    value = to_dict(audit)
    report(reporter, value)
    return value


def view_sets(views: Views, misaligned: Sequence[View] = ()) -> dict[str, Views]:
    """Sets of views that are worth a try, by name; `all` first, none twice.

    Beside all of them: those that lie where they should, all but one, no flips, one scale
    with its flip, and all scales but the smallest or the largest.
    """
    scales = sorted({view.scale for view in views})
    sets = {"all": views, "aligned": tuple(v for v in views if v not in misaligned)}
    sets |= {f"without {view.name}": tuple(v for v in views if v != view) for view in views}
    sets["without flips"] = tuple(view for view in views if not view.flip)
    for scale in scales:
        sets[f"the scale {scale:g} alone"] = tuple(view for view in views if view.scale == scale)
    for scale in (scales[0], scales[-1]):
        sets[f"without the scale {scale:g}"] = tuple(view for view in views if view.scale != scale)
    # A set that has two names keeps the first: its views in order are what counts.
    unique = {members: name for name, members in reversed(sets.items()) if members}
    return {name: members for name, members in sets.items() if unique.get(members) == name}


def _few(samples: Sequence[Sample]) -> Sequence[Sample]:
    return samples[:: -(-len(samples) // ALIGNMENT_IMAGES)]


def _load(samples: Sequence[Sample], predictor: Predictor) -> Iterator[tuple[Map, Map]]:
    """Images (H, W, 3) and truths (h, w), read ahead."""

    def load(sample: Sample) -> tuple[Map, Map]:
        return read_image(sample.image), read_label(sample.label, label_space=predictor.label_space)

    return map_ahead(load, samples, threads=1)


def _positions(predictor: Predictor, samples: Sequence[Sample], views: Views) -> dict[View, Fit]:
    """Where each view but the first, plain, puts what it sees, whatever the network thinks."""
    seer = predictor.with_backend(Brightness(predictor.backend.multiple, predictor.device))
    positions = {view: Alignment() for view in views[1:]}
    alone = [(view,) for view in views]
    for image, truth in _load(samples, predictor):
        maps = _maps(seer, image, (truth.shape[0], truth.shape[1]), alone)
        for alignment, other in zip(positions.values(), maps[1:], strict=True):
            alignment.update(maps[0], other)
    return {view: alignment.fit() for view, alignment in positions.items()}


def _score(
    predictor: Predictor,
    samples: Sequence[Sample],
    members: Sequence[Views],
    drifts: dict[View, Alignment],
    reporter: Reporter,
) -> list[ConfusionMatrix]:
    """The confusion matrix of every set of views in `members`, in one pass over `samples`.

    Args:
        drifts: of all views but plain, which are the first of `members`, each alone; counts
            how their maps lie on plain's.
    """
    space = predictor.label_space
    matrices = [ConfusionMatrix(space.num_classes, space.ignore_index) for _ in members]
    compared = {sample.label for sample in _few(samples)}
    with reporter.progress("TTA", len(samples), unit="images") as progress:
        for sample, (image, truth) in zip(samples, _load(samples, predictor), strict=True):
            maps = _maps(predictor, image, (truth.shape[0], truth.shape[1]), members)
            for matrix, prediction in zip(matrices, maps, strict=True):
                matrix.update(truth, prediction)
            if sample.label in compared:
                for alignment, other in zip(drifts.values(), maps[1:], strict=False):
                    alignment.update(maps[0], other)
            progress.advance()
    return matrices


@torch.inference_mode()
def _maps(
    predictor: Predictor,
    image: Map,
    size: tuple[int, int],
    members: Sequence[Views],
) -> Map:
    """Class maps uint8 (C, H, W) of the mean of each set's views, every view seen once.

    Kept of a view are its coarse logits, a sixteenth of its probabilities, which are made
    for a few rows at a time.
    """
    views = tuple(dict.fromkeys(view for views in members for view in views))
    seen = [(view, *predictor.coarse([image], size, view)) for view in views]
    share = torch.tensor([[float(v in s) for v in views] for s in members], device=predictor.device)
    maps = torch.empty((len(members), *size), dtype=torch.uint8)
    row = 4 * seen[0][1].shape[1] * size[1] * (len(views) + len(members))
    step = max(4, _STRIP // row)
    for top in range(0, size[0], step):
        rows = slice(top, min(top + step, size[0]))
        strips = seen[0][1].new_empty((len(views), seen[0][1].shape[1], rows.stop - top, size[1]))
        for strip, (view, coarse, frame) in zip(strips, seen, strict=True):
            torch.softmax(view.invert(upsample_rows(coarse[0], frame, rows)), 0, out=strip)
        for index, total in enumerate(torch.tensordot(share, strips, 1)):
            maps[index, rows] = argmax(total).cpu()
    return maps.numpy()
