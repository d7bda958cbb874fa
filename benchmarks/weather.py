"""How much a model loses in weather that it was not trained on.

    python benchmarks/weather.py RUN_OR_CHECKPOINT [RUN...] --prepared DIR [--json FILE]

The images of a split are scored as they are and with rain, snow and fog at three severities,
drawn by `segcli.data.stress`, which shares no code with the effects of `preset: weather`. The
weather of an image depends on its place in the split alone, so that every run sees the same.
Prints mean IoU: clean, for each weather and severity, and the mean over all of the weather.
"""

from __future__ import annotations

import argparse
import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import cv2
import numpy as np

from segcli import files
from segcli.data.images import read_image, read_label
from segcli.data.manifest import Sample, load_manifest
from segcli.data.stress import SEVERITIES, STRESSES
from segcli.errors import SegcliError
from segcli.inference.predictor import Predictor
from segcli.metrics.confusion import ConfusionMatrix, scores
from segcli.parallel import map_ahead
from segcli.runs import find_checkpoint

HELD_BACK = ("rain", "snow", "fog")


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if unknown := set(args.kinds) - set(STRESSES):
        raise SystemExit(f"error: no such weather: {', '.join(sorted(unknown))}")
    try:
        manifest = load_manifest(args.prepared)
        samples = manifest.split(args.split)
        step = 1 if args.limit is None else max(1, len(samples) // args.limit)
        samples = samples[::step][: args.limit]
        results = {}
        for run in args.runs:
            predictor = Predictor.from_checkpoint(find_checkpoint(run), device=args.device)
            if clause := predictor.label_space.difference(manifest.label_space):
                raise SegcliError(f"model and data have different classes, {clause}", file=run)
            results[str(run)] = measure(predictor, samples, args.kinds)
    except SegcliError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(table(results, args.kinds))
    if args.json:
        files.write_json(args.json, {"images": len(samples), "split": args.split, "runs": results})
    return 0


def measure(
    predictor: Predictor, samples: Sequence[Sample], kinds: Sequence[str]
) -> dict[str, Any]:
    """{"clean": mIoU, kind: {severity: mIoU}, "mean": over kinds and severities}."""
    conditions = [("clean", 0), *((kind, s) for kind in kinds for s in SEVERITIES)]
    space = predictor.label_space
    matrices = [ConfusionMatrix(space.num_classes, space.ignore_index) for _ in conditions]

    def load(item: tuple[int, Sample]) -> tuple[list[Any], Any]:
        position, sample = item
        image = read_image(sample.image)
        views = [render(image, kind, severity, position) for kind, severity in conditions]
        return views, read_label(sample.label, label_space=space)

    for views, truth in map_ahead(load, enumerate(samples), threads=1, ahead=2):
        for matrix, view in zip(matrices, views, strict=True):
            matrix.update(truth, predictor.predict(view, truth.shape))
    return summary(conditions, [scores(m, space).miou for m in matrices], kinds)


def render(image: Any, kind: str, severity: int, position: int) -> Any:
    """One image in its weather; its generator is that of its place, kind and severity."""
    if kind == "clean":
        return image
    seed = [position, zlib.crc32(kind.encode()), severity]
    return STRESSES[kind](image, severity, np.random.default_rng(seed))


def summary(
    conditions: Sequence[tuple[str, int]], values: Sequence[float], kinds: Sequence[str]
) -> dict[str, Any]:
    by = dict(zip(conditions, values, strict=True))
    result: dict[str, Any] = {"clean": by["clean", 0]}
    for kind in kinds:
        result[kind] = {str(s): by[kind, s] for s in SEVERITIES}
    result["mean"] = float(np.mean([v for (kind, _), v in by.items() if kind != "clean"]))
    return result


def table(results: dict[str, dict[str, Any]], kinds: Sequence[str]) -> str:
    head = ["clean", "mean", *(f"{kind} {s}" for kind in kinds for s in SEVERITIES)]
    lines = ["  ".join(f"{h:>7}" for h in head) + "  run"]
    for run, r in results.items():
        values = [r["clean"], r["mean"], *(r[k][str(s)] for k in kinds for s in SEVERITIES)]
        lines.append("  ".join(f"{v:7.4f}" for v in values) + f"  {run}")
    return "\n".join(lines) + "\n"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Mean IoU of runs in weather not trained on.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_OR_CHECKPOINT")
    parser.add_argument("--prepared", type=Path, required=True, help="prepared data set")
    parser.add_argument("--split", default="val")
    parser.add_argument("--kinds", nargs="+", default=list(HELD_BACK), help=", ".join(STRESSES))
    parser.add_argument("--limit", type=int, help="score no more than this many images")
    parser.add_argument("--device", help="cpu, cuda or cuda:N")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    raise SystemExit(main())
