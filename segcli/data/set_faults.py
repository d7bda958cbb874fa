"""What can be wrong with a data set as a whole: duplicates, classes, splits, missing files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from segcli import findings as codes
from segcli.data.faults import Seen, glance
from segcli.data.manifest import Manifest, Sample
from segcli.findings import ERROR, WARNING, Finding
from segcli.parallel import map_ahead

# Below these a class is too rare for its score to mean much.
RARE_IMAGES, RARE_SHARE, FEW_SAMPLES = 3, 1e-5, 30


class Duplicates:
    """Finds pictures that stand in a data set twice, by digests of 32 bytes a picture."""

    def __init__(self) -> None:
        self._first: dict[bytes, tuple[str, Path]] = {}

    def add(self, seen: Seen) -> Finding | None:
        """The finding that this picture is, when it was there before.

        Coarse and fine annotations of one image file share that file: no fault.
        """
        if seen.digest is None:
            return None
        split, path = self._first.setdefault(seen.digest, (seen.split, seen.image))
        same_side = split.split("_")[0] == seen.split.split("_")[0]
        if path == seen.image and (same_side or split == seen.split):
            return None
        if same_side:
            what, hint = f"same picture as {path.name} of '{split}'", "keep one of the two"
            return Finding(codes.DUPLICATE, WARNING, what, seen.image, hint)
        what = f"picture of '{seen.split}' that is {path.name} of '{split}' too"
        hint = "take it out of one split: a score on trained images says nothing"
        return Finding(codes.SPLIT_LEAK, ERROR, what, seen.image, hint)


class ClassCounts:
    """Pixels and images per class of a split, summed as samples come by."""

    def __init__(self, num_classes: int) -> None:
        self.pixels = np.zeros(num_classes + 1, np.int64)
        self.images = np.zeros(num_classes + 1, np.int64)
        self.samples = 0

    def add(self, pixels: Sequence[int]) -> None:
        """Count a sample with K + 1 pixel counts."""
        self.pixels += np.asarray(pixels, np.int64)
        self.images += np.asarray(pixels, np.int64) > 0
        self.samples += 1

    def findings(self, split: str, names: Sequence[str]) -> list[Finding]:
        """Classes that are absent from the split `split`, or too rare to learn from."""
        if not self.samples:
            return []
        found = []
        pixels, counts = self.pixels[:-1], self.images[:-1]
        absent = [name for name, n in zip(names, pixels, strict=True) if n == 0]
        if absent:
            hint = "choose a label space without them, or add images that show them"
            what = f"no pixel of {', '.join(absent)} in '{split}'"
            found.append(Finding(codes.ABSENT_CLASS, WARNING, what, None, hint))
        total = max(1, int(pixels.sum()))
        for name, n, shown in zip(names, pixels.tolist(), counts.tolist(), strict=True):
            few = shown < RARE_IMAGES and self.samples >= FEW_SAMPLES
            if n and (few or n / total < RARE_SHARE):
                what = (
                    f"'{name}' is in {shown} of {self.samples} images of '{split}', "
                    f"{100 * n / total:.2g} % of the labelled pixels"
                )
                hint = "its score will be noise; merge it with a class like it, or add images"
                found.append(Finding(codes.RARE_CLASS, WARNING, what, None, hint))
        return found


def manifest_findings(
    manifest: Manifest, splits: Mapping[str, Sequence[str]], *, threads: int | None = None
) -> list[Finding]:
    """Faults that the manifest and the headers of the files it names can tell.

    Args:
        splits: what for -> names of splits, such as ``{"train": ["train", "train_extra"]}``.
    """
    found: list[Finding] = []
    looked_at: dict[Path, Sample] = {}
    for use, names in splits.items():
        counts = ClassCounts(manifest.label_space.num_classes)
        for name in names:
            samples = manifest.splits.get(name, ())
            if not samples:
                there = ", ".join(k for k, v in manifest.splits.items() if v) or "none"
                what, hint = f"no samples in split '{name}'", f"there is {there}"
                found.append(Finding(codes.EMPTY_SPLIT, ERROR, what, manifest.folder, hint))
            for sample in samples:
                counts.add(sample.pixels)
                looked_at[sample.label] = sample
        found += counts.findings(use, manifest.label_space.class_names)
    for faults in map_ahead(glance, looked_at.values(), threads=threads, ahead=256):
        found += faults
    return found
