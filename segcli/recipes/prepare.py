"""Raw data set -> prepared data set: recognise, convert on all cores, check, describe."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from yaml import YAMLError

from segcli import strict_yaml
from segcli.data.classes import NAME_THEM, space_for
from segcli.data.layouts import Fault, Layout, find_layout
from segcli.data.manifest import FILE_NAME, Manifest, Sample, write_manifest
from segcli.data.tasks import (
    INDEX,
    OFFICIAL,
    PACK_CODECS,
    RAW,
    Task,
    label_path,
    one_hot_path,
    pack_path,
)
from segcli.errors import DataError, LabelSpaceError, SegcliError, UsageError
from segcli.files import is_temporary, make_folder, read_json, remove, write_json
from segcli.labels import LabelSpace
from segcli.recipes.prepare_pool import Journal, Record, Workers, key_of, worker_count
from segcli.recipes.prepare_report import REPORT, Prepared
from segcli.reporting.events import Reporter

_TRAIN_CONFIG = {
    "cityscapes-19": "fpn.yaml",
    "cityscapes-categories": "fpn_categories.yaml",
    "traffic-9": "fpn_classes.yaml",
    "camvid-11": "camvid_fpn_mobilenet.yaml",
    "camvid-categories": "camvid_fpn_categories.yaml",
}
_KNOWN_CORRUPT = "troisdorf_000000_000073"


def prepare_labels(
    root: Path,
    *,
    reporter: Reporter,
    label_space: str | None = None,
    out: Path | None = None,
    also: Sequence[str] = (),
    one_hot: bool = False,
    workers: int | None = None,
    mask_values: str = "index",
    skip_bad: bool = False,
    pack: str = "",
    pack_splits: Sequence[str] = ("train",),
) -> Prepared:
    """Prepare the data set under `root`; files that are up to date are left as they are.

    Args:
        root: a Cityscapes tree, a CamVid tree, or a folder with `images/` and `masks/`.
        label_space: a shipped name or a YAML file; None takes what fits the layout.
        out: the prepared folder; None is `prepared/<label space>`.
        also: official Cityscapes images to write below `out/official`.
        one_hot: write a packed channel per class too.
        workers: processes; None is one per core.
        mask_values: what masks of a plain folder hold, class indices or the space's raw ids.
        skip_bad: go on without samples that cannot be used.
        pack: codec of a packed copy to cut training crops from; empty for none.
        pack_splits: splits that get one.

    Raises:
        DataError: layout not recognised, a sample that cannot be used, an empty split.
        LabelSpaceError: a label space that is unknown or does not fit the layout.
        UsageError: flags that cannot be meant.
        OutputError: a file that cannot be written.
    """
    with Workers(worker_count(workers)) as pool:
        layout = find_layout(root)
        task = _make_task(layout, label_space, out, also, one_hot, mask_values)
        task = task._replace(pack=pack, pack_splits=_pack_splits(layout, pack, pack_splits))
        _refuse_another_source(task.out, layout.root)
        journal = Journal(task.out)
        # From here on labels change: without the manifest nobody trains on half of them.
        remove(make_folder(task.out) / FILE_NAME)
        old = journal.load()
        records, faults, redone = _convert_all(pool, layout, task, old, journal, reporter)
    _tidy(task.out, old, records)
    journal.rewrite(records)
    all_faults = tuple(_with_hint(f) for f in sorted((*layout.faults, *faults)))
    manifest = _manifest(layout, task, records)
    command = _next_command(manifest, out)
    prepared = Prepared(manifest, all_faults, tuple(layout.notes), redone, command)
    write_json(task.out / REPORT, prepared.to_dict())
    if all_faults and not skip_bad:
        raise _first_fault(prepared)
    for name in layout.splits:
        if not manifest.splits.get(name):
            raise DataError(f"split '{name}' is empty", file=layout.root)
    write_manifest(manifest)
    return prepared


# --- before ----------------------------------------------------------------------------------


def _make_task(
    layout: Layout,
    label_space: str | None,
    out: Path | None,
    also: Sequence[str],
    one_hot: bool,
    mask_values: str,
) -> Task:
    for name in also:
        if name not in OFFICIAL:
            raise UsageError(f"--also {name}", hint=f"there are {', '.join(OFFICIAL)}")
    if also and layout.kind != "cityscapes":
        raise UsageError("--also is for Cityscapes trees", file=layout.root)
    if mask_values not in (INDEX, RAW):
        raise UsageError(f"--mask-values {mask_values}", hint=f"'{INDEX}' or '{RAW}'")
    space = _choose_space(layout, label_space)
    folder = (out or Path("prepared", _safe_name(space.name))).resolve()
    if folder == layout.root or folder in layout.root.parents:
        raise UsageError("the output folder holds the source", file=folder)
    ordered = tuple(name for name in OFFICIAL if name in also)
    return Task(layout.root, folder, layout.kind, space, ordered, one_hot, mask_values)


def _pack_splits(layout: Layout, codec: str, splits: Sequence[str]) -> tuple[str, ...]:
    if not codec:
        return ()
    if codec not in PACK_CODECS:
        raise UsageError(f"--pack-codec {codec}", hint=f"there are {', '.join(PACK_CODECS)}")
    for name in splits:
        if name not in layout.splits:
            there = ", ".join(layout.splits)
            raise UsageError(f"--pack-splits {name}", file=layout.root, hint=f"has {there}")
    return tuple(name for name in layout.splits if name in splits)


def _refuse_another_source(out: Path, root: Path) -> None:
    """Keep the labels of one data set from being replaced by another's, unasked.

    A data set that has moved, so that its old place is gone, is the same one. A run that failed
    has left no manifest, but its report.
    """
    about = out / FILE_NAME if (out / FILE_NAME).is_file() else out / REPORT
    if not about.is_file():
        return
    try:
        found = read_json(about)
        source = Path(str(found.get("source_absolute", found.get("source", root))))
    except (SegcliError, AttributeError):
        return
    if source.is_dir() and source.resolve() != root.resolve():
        raise UsageError(
            f"holds the labels of {source} already",
            file=out,
            hint="choose another folder with --out",
        )


def _choose_space(layout: Layout, asked: str | None) -> LabelSpace:
    space = space_for(layout, asked)
    if space is None:
        what = "which classes do the masks hold?"
        raise LabelSpaceError(what, file=layout.root, hint=NAME_THEM)
    return space


def _safe_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip(".") or "labels"


# --- converting ------------------------------------------------------------------------------


def _convert_all(
    pool: Workers,
    layout: Layout,
    task: Task,
    old: dict[str, Record],
    journal: Journal,
    reporter: Reporter,
) -> tuple[list[Record], list[Fault], int]:
    """Bring every sample up to date; records in the order of the pairs, faults, how many."""
    records: list[Record] = []
    faults: list[Fault] = []
    redone = 0
    work = [(pair, old.get(key_of(pair))) for pair in layout.pairs]
    with reporter.progress("prepare labels", len(work)) as progress:
        for updates in pool.update_all(work, task):
            new = []
            for u in updates:
                if isinstance(u.result, Fault):
                    faults.append(u.result)
                    continue
                record = Record(u.job, u.result)
                records.append(record)
                if u.redone:
                    new.append(record)
            if new:
                journal.append(new)
            redone += len(new)
            progress.advance(len(updates))
    return records, faults, redone


def _tidy(out: Path, old: dict[str, Record], records: list[Record]) -> None:
    """Remove files of samples and options that are gone, and what a killed run left half done.

    Only files that the journal names, or whose names are those of temporary files, are touched.
    """
    wanted = {name for r in records for name in r.done.outputs}
    for record in old.values():
        for name in record.done.outputs:
            path = out / name
            if name not in wanted and ".." not in path.parts and out in path.parents:
                remove(path)
    for parent, _, names in os.walk(out):
        for name in names:
            if is_temporary(Path(name)):
                remove(Path(parent, name))


# --- after -----------------------------------------------------------------------------------


def _manifest(layout: Layout, task: Task, records: list[Record]) -> Manifest:
    images = {key_of(p): p.image for p in layout.pairs}
    splits: dict[str, list[Sample]] = {name: [] for name in layout.splits}
    for record in records:
        d = record.done
        label = label_path(d.split, d.id)
        splits[d.split].append(
            Sample(
                id=d.id,
                image=images[key_of(d)],
                label=task.out / label,
                one_hot=task.out / one_hot_path(d.split, d.id) if task.one_hot else None,
                size=d.size,
                sha256=d.outputs[label],
                pixels=d.pixels,
                packed=task.out / pack_path(d.split, d.id) if d.split in task.pack_splits else None,
            )
        )
    frozen = {name: tuple(samples) for name, samples in splits.items()}
    return Manifest(task.out, layout.root, layout.kind, task.label_space, frozen)


def _with_hint(fault: Fault) -> Fault:
    if _KNOWN_CORRUPT in fault.file.name and not fault.hint:
        return fault._replace(hint="this file is corrupt in the official archive")
    return fault


def _first_fault(prepared: Prepared) -> DataError:
    first, more = prepared.faults[0], len(prepared.faults) - 1
    hints = [first.hint] if first.hint else []
    if more:
        report = prepared.manifest.folder / REPORT
        hints.append(f"{more} more such file{'s' * (more > 1)} in {report}")
    hints.append("--skip-bad goes on without")
    return DataError(first.what, file=first.file, hint="; ".join(hints))


def _next_command(manifest: Manifest, out: Path | None) -> str:
    """What to type next; settings that differ from the config's own are said."""
    name = manifest.label_space.name
    words = ["segcli", "train", _TRAIN_CONFIG.get(name, "fpn.yaml")]
    if name not in _TRAIN_CONFIG or out is not None:
        place = str(out or Path("prepared", _safe_name(name)))
        words += ["--set", f"data.prepared={_in_yaml(place)}"]
    if name not in _TRAIN_CONFIG:
        words += ["--set", f"data.label_space={_in_yaml(name)}"]
    return shlex.join(words)


def _in_yaml(word: str) -> str:
    """A word as `--set` takes it, in quotes where YAML would read something else."""
    try:
        plain = strict_yaml.load(word) == word
    except (YAMLError, ValueError):
        plain = False
    return word if plain else json.dumps(word)
