"""What a run costs: parameters and arithmetic, seconds a picture here, and how it was trained."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segcli import files
from segcli.checkpoint import DESCRIPTION, load_checkpoint
from segcli.errors import CheckpointError, SegcliError
from segcli.recipes.compare_runs import EvaluatedRun
from segcli.reporting.events import Reporter

# Points of a curve that a picture has room for.
_POINTS = 100
_ROUNDS, _SECONDS = 9, 8.0


@dataclass(frozen=True)
class Cost:
    """Of one picture of `size` (height, width).

    Attributes:
        parameters: trainable numbers of the network.
        multiply_adds: of convolutions and matrix products; `flops` is twice that.
        seconds: median over a few predictions, one picture at a time; None if not measured.
        device, precision, threads: with which they were measured.
    """

    size: tuple[int, int]
    parameters: int
    multiply_adds: int
    flops: int
    seconds: float | None = None
    device: str = ""
    precision: str = ""
    threads: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "size": list(self.size)}


@dataclass(frozen=True)
class Curve:
    """Validation and loss over a training, from its log.

    Attributes:
        miou: (step, mIoU) of every validation.
        loss: (step, loss), thinned out by averages.
        steps: of the last line.
        seconds: of its steps, without validation.
    """

    miou: tuple[tuple[int, float], ...]
    loss: tuple[tuple[int, float], ...]
    steps: int
    seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "seconds": self.seconds, "miou": self.miou, "loss": self.loss}


def costs(
    runs: Sequence[EvaluatedRun], *, speed: bool, device: str | None, reporter: Reporter
) -> list[Cost | None]:
    """The cost of every run at the size of its pictures; None where its weights are not here.

    Seconds are measured in turns, so that whatever else the machine does meets all of them.
    """
    size = _picture_size(runs)
    models = [run.checkpoint for run in runs]
    found: list[Cost | None] = []
    for path in models:
        try:
            found.append(None if path is None else _arithmetic(path, size))
        except SegcliError as error:
            reporter.warning(f"no cost: {error}")
            found.append(None)
    if speed:
        rows = [i for i, cost in enumerate(found) if cost is not None]
        reporter.message(f"measuring seconds per image of {len(rows)} networks")
        paths = [path for path in (runs[i].weights for i in rows) if path is not None]
        for i, timed in zip(rows, _time(paths, size, device), strict=True):
            cost = found[i]
            if cost is not None:
                found[i] = Cost(**{**asdict(cost), **timed})
    return found


def _arithmetic(checkpoint: Path, size: tuple[int, int]) -> Cost:
    import torch

    from segcli.models.build import build_model
    from segcli.models.summary import model_summary

    config = files.read_json(checkpoint / DESCRIPTION, kind=CheckpointError).get("model_config")
    if not isinstance(config, dict):
        raise CheckpointError("checkpoint without 'model_config'", file=checkpoint / DESCRIPTION)
    # Shapes are all it takes: no memory is filled and no arithmetic done on this device.
    with torch.device("meta"):
        model = build_model(**config)
    summary = model_summary(model, [size])
    cost = summary.costs[0]
    return Cost(size, summary.parameters, cost.multiply_adds, cost.flops)


def _time(
    checkpoints: Sequence[Path], size: tuple[int, int], device: str | None
) -> list[dict[str, Any]]:
    import torch

    from segcli.inference.predictor import Predictor

    predictors = [Predictor.of_checkpoint(load_checkpoint(p), device=device) for p in checkpoints]
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    seconds: list[list[float]] = [[] for _ in predictors]
    for predictor in predictors:
        predictor.predict(image)
    end = time.perf_counter() + _SECONDS * len(predictors)
    for _ in range(_ROUNDS):
        for predictor, taken in zip(predictors, seconds, strict=True):
            start = time.perf_counter()
            predictor.predict(image)
            taken.append(time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return [
        {
            "seconds": statistics.median(taken),
            "device": predictor.device.type,
            "precision": predictor.precision,
            "threads": torch.get_num_threads() if predictor.device.type == "cpu" else None,
        }
        for predictor, taken in zip(predictors, seconds, strict=True)
    ]


def _picture_size(runs: Sequence[EvaluatedRun]) -> tuple[int, int]:
    """Height and width of an evaluated picture, else of the network's input."""
    from segcli.data.manifest import load_manifest

    for run in runs:
        try:
            manifest = load_manifest(Path(str(run.scores.get("prepared", ""))))
            height, width = next(s for split in manifest.splits.values() for s in split).size
            return int(height), int(width)
        except (SegcliError, StopIteration):
            continue
    return (512, 1024)


def training_curve(log: Path | None) -> Curve | None:
    """Read a run's log; None where there is none, or nothing in it. Torn lines are left out."""
    if log is None or not log.is_file():
        return None
    scalars: dict[str, dict[int, float]] = {}
    for event in _events(log):
        name, step, value = event.get("name"), event.get("step"), event.get("value")
        if isinstance(name, str) and isinstance(step, int) and isinstance(value, int | float):
            # A run that went on from a checkpoint takes some steps again: the later ones hold.
            scalars.setdefault(name, {})[step] = float(value)
    miou, loss = scalars.get("val/miou", {}), scalars.get("loss/total", {})
    if not miou and not loss:
        return None
    seconds = scalars.get("speed/seconds_per_step")
    return Curve(
        tuple(sorted(miou.items())),
        _thinned(sorted(loss.items())),
        max((*miou, *loss)),
        sum(seconds.values()) if seconds else None,
    )


def _events(log: Path) -> Iterator[dict[str, Any]]:
    try:
        with log.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(event, dict) and event.get("event") == "scalar":
                    yield event
    except OSError:
        return


def _thinned(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """At most 100 points, each the mean of its neighbours."""
    every = -(-len(points) // _POINTS)
    groups = [points[i : i + every] for i in range(0, len(points), max(every, 1))]
    return tuple((g[-1][0], statistics.fmean(v for _, v in g)) for g in groups)
