"""What a run of prepare-labels found and wrote: for the screen, and for other programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segcli.data.folders import in_text
from segcli.data.layouts import Fault
from segcli.data.manifest import Manifest
from segcli.reporting.events import Reporter

REPORT = "prepare-report.json"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a run found and wrote.

    Attributes:
        manifest: the prepared data set; when faults stopped the run, without its file.
        faults: files that cannot be used, missing partners among them.
        notes: remarks on folders that were left out or divided.
        redone: samples that were converted now, the others were up to date.
        next_command: what a user would type next.
    """

    manifest: Manifest
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]
    redone: int
    next_command: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without times and counts of the run itself."""
        m = self.manifest
        names = [*m.label_space.class_names, "(ignored)"]
        return {
            "source": str(m.source),
            "layout": m.layout,
            "label_space": m.label_space.name,
            "images": {name: len(samples) for name, samples in m.splits.items()},
            "pixels": dict(zip(names, class_pixels(m), strict=True)),
            "notes": list(self.notes),
            "faults": [f._asdict() | {"file": str(in_text(f.file))} for f in self.faults],
        }


def class_pixels(manifest: Manifest) -> list[int]:
    """Pixels per class over all splits, and last the ignored ones."""
    totals = [0] * (manifest.label_space.num_classes + 1)
    for samples in manifest.splits.values():
        for sample in samples:
            totals = [a + b for a, b in zip(totals, sample.pixels, strict=True)]
    return totals


def show(prepared: Prepared, reporter: Reporter) -> None:
    """Tables for the reader: images per split, pixels per class, odd files, what next."""
    m = prepared.manifest
    rows = []
    for name, samples in m.splits.items():
        total = sum(sum(s.pixels) for s in samples)
        ignored = sum(s.pixels[-1] for s in samples)
        rows.append((name, str(len(samples)), f"{100 * ignored / max(1, total):.1f} %"))
    reporter.table(f"Images ({m.layout})", ("split", "images", "ignored pixels"), rows)
    counts = class_pixels(m)
    names = (*m.label_space.class_names, "(ignored)")
    shares = [f"{100 * n / max(1, sum(counts)):.2f} %" for n in counts]
    cells = [(n, f"{c:,}", s) for n, c, s in zip(names, counts, shares, strict=True)]
    reporter.table(f"Pixels per class of {m.label_space.name}", ("class", "pixels", "share"), cells)
    show_faults(prepared.faults, m.source, reporter)
    for note in prepared.notes:
        reporter.message(note)
    absent = [n for n, c in zip(m.label_space.class_names, counts, strict=False) if not c]
    if absent:
        reporter.warning(f"no pixel of {', '.join(absent)}")
    total_images = sum(len(s) for s in m.splits.values())
    reporter.message(
        f"{prepared.redone} converted, {total_images - prepared.redone} up to date, in {m.folder}"
    )
    _show_pack(m, reporter)
    reporter.message(f"next: {prepared.next_command}")


def _show_pack(manifest: Manifest, reporter: Reporter) -> None:
    samples = [s for split in manifest.splits.values() for s in split]
    pairs = [(s.packed.stat().st_size, s.image.stat().st_size) for s in samples if s.packed]
    if pairs:
        packed, images = (sum(column) for column in zip(*pairs, strict=True))
        reporter.message(
            f"packed copy of {len(pairs)} images: {packed / 2**20:,.0f} MiB, "
            f"{packed / images:.1f} times their bytes"
        )


def show_faults(faults: Sequence[Fault], root: Path, reporter: Reporter, most: int = 10) -> None:
    """A table of files that were left out, cut after `most` rows."""
    if not faults:
        reporter.message("no missing partners, no odd files")
        return
    missing = sum("without a" in f.what for f in faults)
    rows = []
    for f in faults[:most]:
        inside = f.file.is_relative_to(root)
        rows.append((str(f.file.relative_to(root) if inside else f.file), f.what))
    if len(faults) > most:
        rows.append((f"... {len(faults) - most} more", f"see {REPORT}"))
    title = f"Left out: {missing} missing partners, {len(faults) - missing} odd files"
    reporter.table(title, ("file", "what"), rows)
