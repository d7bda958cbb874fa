"""What is compared: evaluations of runs; runs that differ by their seed alone are one arm."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcli import files
from segcli.checkpoint import DESCRIPTION
from segcli.errors import DataError, LabelSpaceError, SegcliError, UsageError
from segcli.exported import is_exported
from segcli.metrics.image_counts import ImageCounts, image_counts
from segcli.runs import find_checkpoint, is_best, newest_named, run_folder

IMAGES, SCORES = "images.json", "scores.json"
Key = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class EvaluatedRun:
    """A run with the scores of its images.

    Attributes:
        name: of its folder.
        evaluation: folder of images.json and scores.json.
        scores: contents of scores.json.
        classes: names of the K classes.
        images: (split, id) of the N images, in order.
        counts: of these images.
        checkpoint: folder of the weights; None where they are not here.
        config: what the run was trained with, but for its seed; "" where that is not known.
        seed: of its training.
        exported: the file that was evaluated in place of the checkpoint, if one was and is here.
    """

    name: str
    evaluation: Path
    scores: dict[str, Any]
    classes: tuple[str, ...]
    images: tuple[Key, ...]
    counts: ImageCounts
    checkpoint: Path | None = None
    config: str = ""
    seed: int | None = None
    exported: Path | None = None

    @property
    def weights(self) -> Path | None:
        """What was evaluated: the exported file, or else the checkpoint."""
        return self.exported or self.checkpoint

    @property
    def log(self) -> Path | None:
        """The log of its training, where there may be one."""
        return None if self.checkpoint is None else run_folder(self.checkpoint) / "log.jsonl"

    def only(self, keys: Sequence[Key]) -> EvaluatedRun:
        """The same run on some of its images, in the order of `keys`."""
        place = {key: i for i, key in enumerate(self.images)}
        rows = np.array([place[key] for key in keys], np.int64)
        counts = ImageCounts(*(table[rows] for table in self.counts))
        return dataclasses.replace(self, images=tuple(keys), counts=counts)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One side of a comparison: a run, or several seeds of one recipe."""

    name: str
    runs: tuple[EvaluatedRun, ...]

    @property
    def counts(self) -> list[ImageCounts]:
        return [run.counts for run in self.runs]


def find_evaluations(paths: Sequence[Path], wanted: str | None = None) -> list[Path]:
    """The evaluation folder of every path: a run, a checkpoint, or such a folder itself.

    A run may have several, below RUN/eval; without `wanted` the one that all runs have is
    taken, `val` before others.

    Raises:
        DataError: naming the run without an evaluation, and the command that makes it.
        UsageError: several of them and no telling which one is meant.
    """
    there = [_evaluations(path) for path in paths]
    named = [found for found in there if isinstance(found, dict)]
    name = wanted or _common_name(named)
    folders = []
    for path, found in zip(paths, there, strict=True):
        if isinstance(found, Path):
            folders.append(found)
        elif name in found:
            folders.append(found[name])
        else:
            raise DataError(
                f"no evaluation '{name}' with scores per image",
                file=path,
                hint=f"it has {', '.join(sorted(found))}; --eval NAME takes another",
            )
    return folders


def _evaluations(path: Path) -> Path | dict[str, Path]:
    """The folder that `path` is, or those of the run that it is, by name."""
    if path.name == IMAGES and path.is_file():
        return path.parent
    if (path / IMAGES).is_file():
        return path
    run = path if path.exists() else newest_named(path) or path
    if not (run / "eval").is_dir():
        run = run_folder(find_checkpoint(run))
    found = {p.parent.name: p.parent for p in sorted(run.glob(f"eval/*/{IMAGES}"))}
    if not found:
        raise DataError("no scores per image", file=path, hint=f"segcli eval {path} makes them")
    return found


def _common_name(runs: Sequence[dict[str, Path]]) -> str:
    if not runs:
        return ""
    common = sorted(set.intersection(*(set(found) for found in runs)))
    best = [name for name in common if not name.endswith("-last")] or common
    if not best:
        each = "; ".join(sorted({", ".join(sorted(found)) for found in runs}))
        raise UsageError(
            f"the runs were evaluated on different splits ({each})",
            hint="evaluate them on one with segcli eval RUN --split NAME",
        )
    if len(best) > 1 and "val" not in best:
        raise UsageError(
            f"the runs have several evaluations ({', '.join(best)})", hint="choose by --eval NAME"
        )
    return "val" if "val" in best else best[0]


def read_run(path: Path, evaluation: Path) -> EvaluatedRun:
    """An evaluation's images and scores, and what is known of the training behind it.

    Raises:
        DataError: files that are missing or do not have the form that `segcli eval` writes.
    """
    scores = files.read_json(evaluation / SCORES, kind=DataError)
    rows = files.read_json(evaluation / IMAGES, kind=DataError)
    try:
        classes = tuple(map(str, scores["classes"]))
        images = tuple((str(row.get("split", "")), str(row["id"])) for row in rows)
        counts = image_counts([row["counts"] for row in rows], len(classes))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"not scores per image ({error!r})",
            file=evaluation / IMAGES,
            hint="segcli eval writes them anew",
        ) from None
    if not images or len(set(images)) < len(images):
        what = "an image stands there twice" if images else "no images"
        raise DataError(what, file=evaluation / IMAGES)
    checkpoint = _checkpoint(path, scores)
    config, seed = _training(checkpoint)
    name = run_folder(checkpoint).name if checkpoint else path.resolve().name
    said = Path(str(scores.get("checkpoint") or ""))
    run = EvaluatedRun(
        name,
        evaluation,
        scores,
        classes,
        images,
        counts,
        checkpoint,
        config,
        seed,
        said if is_exported(said) else None,
    )
    return run.only(sorted(images))


def _checkpoint(path: Path, scores: dict[str, Any]) -> Path | None:
    """Where the evaluated weights lie: beside the evaluation, or where scores.json says."""
    said = Path(str(scores.get("checkpoint") or ""))
    try:
        found = find_checkpoint(path)
    except SegcliError:
        return said if scores.get("checkpoint") and (said / DESCRIPTION).is_file() else None
    # A run's best, unless the weights that were evaluated are its last.
    beside = run_folder(found) / said.name
    return beside if not is_best(said) and (beside / DESCRIPTION).is_file() else found


def _training(checkpoint: Path | None) -> tuple[str, int | None]:
    """(config without the seed and what changes no result, seed) of a checkpoint."""
    if checkpoint is None:
        return "", None
    try:
        description = files.read_json(checkpoint / DESCRIPTION)
        training = json.loads(json.dumps(description["training"]))
        seed = training["train"].pop("seed")
        for key in ("prepared", "workers", "worker_timeout"):
            training["data"].pop(key, None)
    except (SegcliError, KeyError, TypeError, AttributeError):
        return "", None
    return json.dumps([description.get("model_config"), training], sort_keys=True), seed


def group_by_config(runs: Sequence[EvaluatedRun]) -> list[Arm]:
    """Runs that differ in nothing but their seed as one arm, if that leaves two arms at least.

    Two seeds of one recipe alone are compared with each other.
    """
    groups: dict[str, list[EvaluatedRun]] = {}
    for number, run in enumerate(runs):
        same = groups.setdefault(run.config or str(number), [])
        if any(run.seed == other.seed for other in same):
            return separate(runs)  # a run that is given twice, or trained twice
        same.append(run)
    if len(groups) < 2:
        return separate(runs)
    return name_arms([("", group) for group in groups.values()])


def separate(runs: Sequence[EvaluatedRun]) -> list[Arm]:
    """Every run as an arm of its own."""
    return name_arms([("", [run]) for run in runs])


def name_arms(groups: Sequence[tuple[str, Sequence[EvaluatedRun]]]) -> list[Arm]:
    """Arms of (name, runs), each name once; an empty name is what the runs' names share."""
    arms: list[Arm] = []
    taken: set[str] = set()
    for given, runs in groups:
        base = name = given or _shared_name([run.name for run in runs])
        number = 1
        while name in taken:
            number += 1
            name = f"{base} ({number})"
        taken.add(name)
        arms.append(Arm(name, tuple(runs)))
    return arms


def _shared_name(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    first, last = min(names), max(names)
    same = next((i for i, c in enumerate(first) if last[i : i + 1] != c), len(first))
    shared = re.sub(r"[-_. ]*(seed|s)?[-_. ]*$", "", first[:same])
    return shared or f"{names[0]} and others"


def align(
    arms: Sequence[Arm], *, common: bool = False, warn: Callable[[str], None] | None = None
) -> list[Arm]:
    """The arms on the same images in the same order, once it is sure that they may be compared.

    Args:
        common: compare on the images that all have, where they do not have the same.

    Raises:
        LabelSpaceError: other classes.
        DataError: other images (unless `common`), or other labels of the same images.
    """
    runs = [run for arm in arms for run in arm.runs]
    first = runs[0]
    for run in runs[1:]:
        if run.classes != first.classes:
            raise LabelSpaceError(
                f"'{first.name}' and '{run.name}' have different classes, "
                f"{_class_difference(first.classes, run.classes)}",
                file=run.evaluation,
            )
    shared = set(first.images).intersection(*(run.images for run in runs))
    odd = next((run for run in runs if run.images != first.images), None)
    if odd is not None:
        what = (
            f"'{first.name}' was scored on {len(first.images)} images and '{odd.name}' on "
            f"{len(odd.images)}, {len(shared)} of them in common"
        )
        if not common or not shared:
            hint = "--common compares on those" if shared else "evaluate them on the same split"
            raise DataError(what, file=odd.evaluation, hint=hint)
        if warn is not None:
            warn(f"{what}; comparing on those")
    keys = sorted(shared)
    result = [Arm(arm.name, tuple(run.only(keys) for run in arm.runs)) for arm in arms]
    _check_truth(result)
    return result


def _class_difference(a: Sequence[str], b: Sequence[str]) -> str:
    if len(a) != len(b):
        return f"{len(a)} and {len(b)} of them"
    k = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    return f"class {k} is '{a[k]}' and '{b[k]}'"


def _check_truth(arms: Sequence[Arm]) -> None:
    runs = [run for arm in arms for run in arm.runs]
    first = runs[0]
    for run in runs[1:]:
        differs = (run.counts.truth != first.counts.truth).any(1)
        if differs.any():
            split, name = run.images[int(differs.argmax())]
            raise DataError(
                f"'{first.name}' and '{run.name}' were scored against different labels, as of "
                f"{f'{split}/' if split else ''}{name}",
                file=run.evaluation,
                hint="evaluate both on one prepared data set",
            )
