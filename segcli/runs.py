"""Finding a checkpoint from what a user typed, or from nothing at all."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from segcli.errors import CheckpointError
from segcli.exported import exported_in, is_exported

RUNS = Path("runs")
# In the order of preference; each may have stepped aside to NAME.previous.
NAMES = ("best", "last")
EXPORT = "export"
_DESCRIPTION = "checkpoint.json"
_STAMP = re.compile(r"-(?P<time>[0-9]{8}-[0-9]{6})(-(?P<number>[0-9]+))?")


def find_checkpoint(path: str | Path | None = None, root: Path = RUNS) -> Path:
    """The checkpoint folder, or the exported file, that `path` means.

    Args:
        path: a run (its best, or else its last), a run's name without its time, which means
            the newest of that name, a checkpoint folder (`runs/fpn/best`, with or without the
            time), a file in one, a folder of runs, an exported file or the folder that it was
            written to; None takes the newest run under `root`.
        root: where runs are looked for.

    Raises:
        CheckpointError: when there is none, saying how to get one.
    """
    if path is None:
        return _newest(root, "train one with segcli train, or name a run")
    given = Path(path)
    if not given.exists():
        # "best" may be gone while "best.previous" is whole; the loader knows what to do.
        if _described(given):
            return given
        if (run := newest_named(given)) is not None:
            return _of_run(run) or run
        if not given.parent.exists() and (run := newest_named(given.parent)) is not None:
            return find_checkpoint(run / given.name)
        raise CheckpointError("no such run or checkpoint", file=given)
    if given.is_file():
        if _described(given.parent):
            return given.parent
        if is_exported(given):
            return given
        raise CheckpointError(
            "not a file of a checkpoint", file=given, hint="give the run or checkpoint folder"
        )
    if _described(given):
        return given
    return (
        _of_run(given) or exported_in(given) or _newest(given, "give a run or a checkpoint folder")
    )


def newest_named(path: Path) -> Path | None:
    """The newest run whose folder is `path` and a time: `runs/fpn-20260131-101500` of `runs/fpn`.

    Runs without a checkpoint do not count.
    """
    found = []
    for run in path.parent.glob(f"{glob.escape(path.name)}-*"):
        # Two that began in one second have a number behind it.
        if match := _STAMP.fullmatch(run.name[len(path.name) :]):
            found.append((match["time"], int(match["number"] or 0), run))
    return next((run for *_, run in sorted(found, reverse=True) if _of_run(run)), None)


def run_to_resume(path: Path) -> Path:
    """The run folder that `path` means: a run, its newest by a name without time, a checkpoint.

    Raises:
        CheckpointError: no run.
    """
    run = path.parent if _base_name(path) in NAMES else path
    if not run.exists():
        run = newest_named(run) or run
    if not run.exists():
        raise CheckpointError("no such run", file=run)
    if not (run / "config.yaml").is_file():
        raise CheckpointError("no run in this folder, it has no config.yaml", file=run)
    return run


def run_folder(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to, or the checkpoint where it stands alone.

    Of an exported file it is the folder that the file lies in.
    """
    if is_exported(checkpoint):
        return checkpoint.parent
    return checkpoint.parent if _base_name(checkpoint) in NAMES else checkpoint


def is_best(checkpoint: Path) -> bool:
    """Whether a checkpoint is the one its run is judged by."""
    return _base_name(checkpoint) != "last"


def _base_name(checkpoint: Path) -> str:
    return checkpoint.name.removesuffix(".previous")


def _described(folder: Path) -> bool:
    """Whether `folder`, or the one it replaced, describes a checkpoint."""
    return _written(folder) is not None


def _written(folder: Path) -> float | None:
    """When the checkpoint at `folder` was written, or None where there is none."""
    for candidate in (folder, folder.with_name(f"{folder.name}.previous")):
        description = candidate / _DESCRIPTION
        if description.is_file():
            return description.stat().st_mtime
    return None


def _of_run(run: Path) -> Path | None:
    return next((run / name for name in NAMES if _described(run / name)), None)


def _newest(root: Path, hint: str) -> Path:
    found: list[tuple[float, str, Path]] = []
    for run in root.iterdir() if root.is_dir() else ():
        checkpoint = _of_run(run) if run.is_dir() else None
        if checkpoint is not None:
            found.append((_written(checkpoint) or 0.0, run.name, checkpoint))
    if not found:
        raise CheckpointError("no checkpoint found", file=root, hint=hint)
    return max(found)[2]
