"""What a checkpoint says of a training run, and what a run needs to go on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from segcli import checkpoint
from segcli.data.manifest import FILE_NAME
from segcli.errors import CheckpointError
from segcli.metrics.confusion import Scores
from segcli.optim.optimizers import load_optimizer
from segcli.recipes.training import Training, model_arguments

# Fields of a run that say where it stands.
POSITION = (
    "step", "epochs_done", "best_score", "best_miou", "last_miou", "stale", "nonfinite", "seconds",
)  # fmt: skip


def save_last(run: Training, scores: Scores | None = None) -> None:
    """Write ``last``, from which training goes on; only rank zero writes.

    Raises:
        OutputError: a full disk, say; the previous checkpoint is whole then.
    """
    if run.world.is_main:
        weights = run.average.model.state_dict()
        state = resume_state(run)
        checkpoint.save_checkpoint(
            run.folder / "last", weights, describe(run, scores), resume=state
        )


def save_best(run: Training, scores: Scores) -> None:
    """Write ``best``: weights and scores alone."""
    if run.world.is_main:
        weights = run.average.model.state_dict()
        checkpoint.save_checkpoint(run.folder / "best", weights, describe(run, scores))


def describe(run: Training, scores: Scores | None) -> dict[str, Any]:
    """What `checkpoint.json` says beside the weights; JSON types."""
    size = run.config.eval.size
    return {
        "model_config": model_arguments(run.config, run.label_space.num_classes),
        "label_space": run.label_space.to_dict(),
        "inference": {
            "precision": run.precision.name,
            "channels_last": run.precision.channels_last,
            "size": None if size is None else list(size),
        },
        "training": run.config.to_dict(),
        "data": {
            "prepared": str(run.manifest.folder.resolve()),
            "train": list(run.config.data.train),
            "val": list(run.config.data.val),
            # Where the splits lie that are data sets of their own, from wherever this is read.
            "label_sources": {
                name: str(Path(folder).resolve())
                for name, folder in run.config.label_sources.items()
                if (Path(folder) / FILE_NAME).is_file()
            },
            "fingerprint": run.manifest.fingerprint(),
        },
        "scores": {} if scores is None else scores.to_dict(),
        "step": run.step,
    }


def resume_state(run: Training) -> dict[str, Any]:
    """What `resume.pt` holds: tensors, numbers and plain containers only."""
    return {
        "model": run.model.state_dict(),
        "average": run.average.model.state_dict(),
        "average_updates": run.average.updates,
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "precision": [run.precision.name, run.precision.channels_last],
        **{name: getattr(run, name) for name in POSITION},
        "fingerprint": run.manifest.fingerprint(),
        "stages": _milestones(run),
        "optimizer_name": run.config.train.optimizer.name,
        "threads": _threads(),
        "judged": _judged(run),
        **({} if run.teaching is None else {"teaching": run.teaching.state_dict()}),
    }


def _threads() -> int:
    """Of a CPU step; sums are added up in another order on another number of them."""
    return torch.get_num_threads()


def _judged(run: Training) -> dict[str, Any]:
    """What the best score is the best of."""
    return {"train.best_by": run.config.train.best_by, "data.val": list(run.config.data.val)}


def _milestones(run: Training) -> list[list[int]]:
    return [[*s.config.size, s.config.epochs, s.end_step] for s in run.stages]


def restore(run: Training, state: dict[str, Any], path: Path) -> None:
    """Put `run` where the resume state of the checkpoint `path` stood.

    Raises:
        CheckpointError: other data, stages or model than the checkpoint's.
    """
    if state["fingerprint"] != run.manifest.fingerprint():
        raise CheckpointError(
            "was trained on other data than the prepared folder holds now",
            file=path,
            hint=f"prepare {run.manifest.folder} as it was, or start anew",
        )
    if ("teaching" in state) != (run.teaching is not None):
        how, command = ("with", "distill") if "teaching" in state else ("without", "train")
        raise CheckpointError(
            f"was trained {how} a teacher", file=path, hint=f"segcli {command} --resume goes on"
        )
    if state["stages"] != _milestones(run):
        raise CheckpointError("was trained with other stages", file=path, hint="start anew")
    for key, now in (("optimizer_name", run.config.train.optimizer.name), ("threads", _threads())):
        before = state.get(key, now)
        if before != now and key == "threads":
            run.reporter.warning(
                f"trained on {before} threads so far, now {now}: last digits differ"
            )
        elif before != now:
            raise CheckpointError(
                f"was trained with {before}, not {now}", file=path, hint="start anew"
            )
    try:
        run.model.load_state_dict(state["model"])
        run.average.model.load_state_dict(state["average"])
        load_optimizer(run.optimizer, state["optimizer"])
        run.scaler.load_state_dict(state["scaler"])
    except (RuntimeError, ValueError, KeyError) as error:
        text = " ".join(str(error).split())[:160]
        raise CheckpointError(f"does not fit the config ({text})", file=path) from None
    if run.teaching is not None:
        run.teaching.load_state_dict(state["teaching"], path)
    run.average.updates = state["average_updates"]
    for name in POSITION:
        setattr(run, name, state.get(name, state["best_miou"]))  # of old: without the last one
    before = state.get("judged", _judged(run))
    if changed := [key for key, value in _judged(run).items() if before[key] != value]:
        run.reporter.warning(
            f"{' and '.join(changed)} changed: the best score so far is of something else, and "
            "the next validation is the best one"
        )
        run.best_score, run.stale = None, 0
        if "data.val" in changed:
            run.best_miou = run.last_miou = -1.0
