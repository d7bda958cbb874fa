"""The pictures that join the fine ones: coarse splits, unlabelled splits and folders, videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segcli.config import DistillConfig
from segcli.data.images import IMAGE_SUFFIXES
from segcli.data.manifest import Manifest, Sample
from segcli.data.mixing import Extra, unlabelled_sample
from segcli.errors import DataError


def find_extra(settings: DistillConfig, manifest: Manifest, *, coarse_only: bool = False) -> Extra:
    """All extra pictures that a config names, coarse ones first.

    Args:
        coarse_only: what a student without a teacher can use.

    Raises:
        DataError: a split, folder or file that is not there, or holds no pictures.
    """
    coarse = [s for name in settings.coarse for s in manifest.split(name)]
    samples = list(coarse)
    if not coarse_only:
        for name in settings.unlabelled:
            samples += _unlabelled(name, manifest)
    return Extra(tuple(samples), len(coarse))


def _unlabelled(name: str, manifest: Manifest) -> Sequence[Sample]:
    """The pictures of a split, whose labels are left alone, or those at a path."""
    if name in manifest.splits:
        return manifest.split(name)
    path = Path(name)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    else:
        there = ", ".join(manifest.splits)
        hint = f"splits of the prepared data: {there}"
        raise DataError("neither a split nor a file or folder", file=path, hint=hint)
    if not files:
        raise DataError("no pictures in this folder", file=path)
    return [unlabelled_sample(f.relative_to(path.parent).as_posix(), f.resolve()) for f in files]
