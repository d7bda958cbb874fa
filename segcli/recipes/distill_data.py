"""The pictures that join the fine ones: coarse splits, unlabelled splits and folders, videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from segcli.config import DistillConfig
from segcli.data.folders import walk
from segcli.data.images import IMAGE_SUFFIXES
from segcli.data.layouts import unlabelled_folder
from segcli.data.manifest import Manifest, Sample
from segcli.data.mixing import Extra, unlabelled_sample
from segcli.errors import DataError
from segcli.recipes.distill_frames import extract_frames, frames_folder, is_video
from segcli.reporting.events import Reporter


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
            samples += _unlabelled(name, manifest, settings.frame_step)
    return Extra(tuple(samples), len(coarse))


def by_key(extra: Extra) -> dict[str, Sequence[Sample]]:
    """Extra pictures by what `shared` is to say of them."""
    return {
        "distill.coarse holds": extra.samples[: extra.coarse],
        "distill.unlabelled holds": extra.samples[extra.coarse :],
    }


def shared(kinds: Mapping[str, Sequence[Sample]], val: Sequence[Sample]) -> list[str]:
    """A line for each kind of pictures that `val` holds some of; it begins with their name."""
    known = {s.image.resolve() for s in val}
    found = []
    for what, samples in kinds.items():
        if count := len(known & {s.image.resolve() for s in samples}):
            found.append(f"{what} {count} of the pictures that are validated on")
    return found


def prepare_frames(settings: DistillConfig, manifest: Manifest, reporter: Reporter) -> None:
    """Write the frames of all videos that a config names, where they are not there yet.

    Raises:
        DataError: a file that is no video, or a damaged one.
    """
    for name in settings.unlabelled:
        if name not in manifest.splits and is_video(Path(name)) and Path(name).is_file():
            extract_frames(Path(name), settings.frame_step, manifest.folder, reporter)


def pictures_below(folder: Path) -> list[Path]:
    """Pictures in a folder and those below it, linked ones too, in order; no hidden files."""
    return sorted(p for p in walk(folder) if p.suffix.lower() in IMAGE_SUFFIXES)


def _unlabelled(name: str, manifest: Manifest, every: int) -> Sequence[Sample]:
    """Pictures of a split, whose labels are left alone, of the raw data set, or at a path."""
    if name in manifest.splits:
        return manifest.split(name)
    path = unlabelled_folder(manifest.source, name) or Path(name)
    if path.is_file() and is_video(path):
        path = frames_folder(path, every, manifest.folder)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = pictures_below(path)
    else:
        there = ", ".join(manifest.splits)
        hint = f"splits of the prepared data: {there}"
        raise DataError("neither a split nor a file or folder", file=Path(name), hint=hint)
    if not files:
        raise DataError("no pictures in this folder", file=path)
    return [unlabelled_sample(f.relative_to(path.parent).as_posix(), f.resolve()) for f in files]
