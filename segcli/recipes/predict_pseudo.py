"""What a network says of unlabelled pictures, as a data set that training can read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segcli import files
from segcli.data.manifest import PSEUDO_LABELS, Manifest, Sample, write_manifest
from segcli.errors import DataError
from segcli.labels import LabelSpace
from segcli.recipes.predict_inputs import MASKS, Job

# The split that other configs take from a data set they name by its folder.
SPLIT = "train"


def write_pseudo_labels(
    out: Path, done: Iterable[tuple[Job, Mapping[str, Any]]], space: LabelSpace
) -> Path:
    """Write `manifest.json` beside the masks, so that `out` is a prepared data set.

    Args:
        out: folder of `segcli predict`.
        done: pictures with the records of their masks.

    Raises:
        DataError: no picture.
    """
    root = out.resolve()
    samples = [_sample(root, job, record, space) for job, record in done]
    if not samples:
        raise DataError("no picture has pseudo-labels", file=out)
    samples.sort(key=lambda sample: sample.id)
    source = Path(os.path.commonpath([sample.image.parent for sample in samples]))
    manifest = Manifest(root, source, PSEUDO_LABELS, space, {SPLIT: tuple(samples)})
    return write_manifest(manifest)


def _sample(root: Path, job: Job, record: Mapping[str, Any], space: LabelSpace) -> Sample:
    counts = dict(record["pixels"])
    height, width = record["size"]
    label = root / MASKS / job.file_name
    known = [int(counts.get(k, 0)) for k in range(space.num_classes)]
    return Sample(
        id=job.name,
        image=Path(os.path.abspath(job.image)),
        label=label,
        one_hot=None,
        size=(height, width),
        sha256=files.sha256_file(label),
        pixels=(*known, height * width - sum(known)),
    )
