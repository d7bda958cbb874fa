"""Every file of a data set, raw or prepared, read once on all cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from segcli import findings as codes
from segcli.data.classes import NAME_THEM, brings_own_space, space_for
from segcli.data.convert import make_tables
from segcli.data.faults import Seen, look_at_pair, look_at_sample
from segcli.data.layouts import Fault, Layout, find_layout
from segcli.data.manifest import FILE_NAME, PSEUDO_LABELS, Manifest, load_manifest
from segcli.data.set_faults import ClassCounts, Duplicates
from segcli.data.tasks import INDEX, RAW, Task
from segcli.environment import usable_cores
from segcli.errors import DataError, LabelSpaceError, UsageError
from segcli.findings import ERROR, OK, WARNING, Finding, of_error
from segcli.labels import LabelSpace
from segcli.parallel import map_ahead
from segcli.reporting.events import Reporter

# Splits in which a class that is missing is missed.
_NEEDED = ("train", "val")
Item = TypeVar("Item")


def check_raw(
    root: Path, reporter: Reporter, *, label_space: str | None, mask_values: str
) -> list[Finding]:
    """All faults of a raw data set, as `segcli prepare-labels` would take it.

    Raises:
        UsageError: a label space or a kind of mask values that is unknown.
    """
    if mask_values not in (INDEX, RAW):
        raise UsageError(f"--mask-values {mask_values}", hint=f"'{INDEX}' or '{RAW}'")
    try:
        layout = find_layout(root)
    except DataError as error:
        return [of_error(codes.LAYOUT, error)]
    space, found = _space_of(layout, label_space)
    found += [_partner(fault) for fault in layout.faults]
    task = None
    if space is not None:
        task = Task(layout.root, Path(), layout.kind, space, mask_values=mask_values)
    tables = None if task is None else make_tables(task)
    samples = {name: [p for p in layout.pairs if p.split == name] for name in layout.splits}
    found += _empty(samples, layout.root)
    found += _look_at_all(
        layout.pairs, lambda p: look_at_pair(p, task, tables), layout.splits, space, reporter
    )
    notes = [Finding(codes.DATA_SET, OK, note) for note in layout.notes]
    return [_summary(layout.kind, samples, space), *notes, *found]


def check_prepared(folder: Path, reporter: Reporter) -> list[Finding]:
    """All faults of a prepared data set: files that are gone, damaged or changed since."""
    try:
        manifest = load_manifest(folder)
    except DataError as error:
        return [of_error(codes.NOT_PREPARED, error, "run segcli prepare-labels again")]
    found = _empty(manifest.splits, folder / FILE_NAME) + _other_samples(manifest)
    work = [(name, s) for name, samples in manifest.splits.items() for s in samples]
    space = manifest.label_space
    found += _look_at_all(
        work, lambda w: look_at_sample(*w, space), tuple(manifest.splits), space, reporter
    )
    return [_summary(f"prepared {manifest.layout}", manifest.splits, space), *found]


def _look_at_all(
    items: Sequence[Item],
    look: Callable[[Item], Seen],
    splits: Iterable[str],
    space: LabelSpace | None,
    reporter: Reporter,
) -> list[Finding]:
    """Look at every item in threads; what is kept of one is a digest and its faults."""
    found: list[Finding] = []
    duplicates = Duplicates()
    classes = space.num_classes if space is not None else 0
    counts = {name: ClassCounts(classes) for name in splits}
    with reporter.progress("check", len(items), unit="images") as progress:
        for seen in _in_threads(look, items):
            found += seen.findings
            twin = duplicates.add(seen)
            if twin is not None:
                found.append(twin)
            if seen.pixels is not None:
                counts[seen.split].add(seen.pixels)
            progress.advance()
    for name in _NEEDED:
        if space is not None and name in counts:
            found += counts[name].findings(name, space.class_names)
    return found


def _in_threads(look: Callable[[Item], Seen], items: Sequence[Item]) -> Iterator[Seen]:
    # Decoding releases Python's lock, so that threads take all cores without copies.
    return map_ahead(look, items, threads=usable_cores())


def _space_of(layout: Layout, asked: str | None) -> tuple[LabelSpace | None, list[Finding]]:
    """The label space that a preparation would take, and what is wrong with it."""
    try:
        space = space_for(layout, asked)
    except LabelSpaceError as error:
        if asked is None and brings_own_space(layout):
            return None, [of_error(codes.LABEL_SPACE, error, "correct it, or give --label-space")]
        raise UsageError(error.what, file=error.file, hint=error.hint) from None
    if space is None:
        what = "nothing says which classes the masks hold, so their values were not looked at"
        return None, [Finding(codes.UNKNOWN_CLASSES, WARNING, what, layout.root, NAME_THEM)]
    return space, []


def _partner(fault: Fault) -> Finding:
    label = fault.what.startswith("label")
    hint = f"add the {'image' if label else 'label'} of the same name, or take this file out"
    return Finding(codes.MISSING_PARTNER, ERROR, fault.what, fault.file, fault.hint or hint)


def _empty(splits: Mapping[str, Sequence[Any]], file: Path) -> list[Finding]:
    """Splits without samples, and train or val that is not there at all."""
    found = [
        Finding(codes.EMPTY_SPLIT, ERROR, f"split '{n}' is empty", file, "fill it or remove it")
        for n, members in splits.items()
        if not members
    ]
    for name in _NEEDED:
        if name not in splits:
            what, hint = f"there is no split '{name}'", "training wants 'train' and 'val'"
            found.append(Finding(codes.EMPTY_SPLIT, WARNING, what, file, hint))
    return found


def _other_samples(manifest: Manifest) -> list[Finding]:
    """Samples that the raw data set has and the manifest has not, and the other way round."""
    if manifest.layout == PSEUDO_LABELS:
        return []
    try:
        layout = find_layout(manifest.source)
    except DataError as error:
        return [of_error(codes.LAYOUT, error)]
    there = {(p.split, p.id) for p in layout.pairs}
    prepared = {(name, s.id) for name, samples in manifest.splits.items() for s in samples}
    hint = "run segcli prepare-labels again (what --skip-bad left out stays out)"
    found = []
    for rest, words in (
        (there - prepared, "samples of the raw data set are not prepared"),
        (prepared - there, "prepared samples have left the raw data set"),
    ):
        if rest:
            what = f"{len(rest)} {words}, such as {'/'.join(min(rest))}"
            found.append(Finding(codes.OTHER_SAMPLES, WARNING, what, manifest.source, hint))
    return found


def _summary(kind: str, splits: Mapping[str, Sequence[Any]], space: LabelSpace | None) -> Finding:
    sizes = ", ".join(f"{name} {len(members)}" for name, members in splits.items())
    classes = f", {space.num_classes} classes of {space.name}" if space is not None else ""
    return Finding(codes.DATA_SET, OK, f"{kind}: {sizes or 'no samples'}{classes}")
