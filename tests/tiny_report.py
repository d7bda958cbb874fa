"""An evaluation report with every section, of a few small pictures and hostile names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_run import blocks

from segcli.data.stress import STRESSES
from segcli.labels import LabelClass, LabelSpace
from segcli.metrics.confusion import ConfusionMatrix, scores

HOSTILE = "\"><script>window.pwned=1</script><img src=x onerror='window.pwned=2'>"
SPACE = LabelSpace(
    "tiny",
    "indices",
    (
        LabelClass("ground", (128, 64, 128), (0,), "flat"),
        LabelClass("<b>kerb</b>", (244, 35, 232), (1,), "flat"),
        LabelClass("house", (70, 70, 70), (2,), "built"),
        LabelClass("sky", (70, 130, 180), (3,), "sky"),
        LabelClass("boat", (0, 0, 180), (4,), "vehicle"),  # occurs nowhere
    ),
)
Shown = tuple[np.ndarray, np.ndarray, np.ndarray]


def shown(count: int = 6) -> dict[str, Shown]:
    """Image, truth with ignored rows, prediction that errs the more the later; by id."""
    result = {}
    for index in range(count):
        image = blocks(index, *((48, 64) if index % 3 else (40, 56)))
        truth = image[:, :, 0] // 64
        rng = np.random.default_rng(index)
        wrong = rng.random(truth.shape) < 0.04 * index
        prediction = np.where(wrong, rng.integers(0, 4, truth.shape), truth).astype(np.uint8)
        truth = truth.copy()
        truth[:2] = 255
        result[HOSTILE if index == count - 1 else f"street/{index}"] = (image, truth, prediction)
    return result


def evaluation(pictures: dict[str, Shown]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What scores.json and images.json would hold, every section filled in."""
    k = SPACE.num_classes
    total, images = ConfusionMatrix(k), []
    for name, (_, truth, prediction) in pictures.items():
        own = ConfusionMatrix(k)
        own.update(truth, prediction)
        total.merge(own)
        found = scores(own, SPACE)
        counts = [[int(t), int(p), int(own.matrix[t, p])] for t, p in np.argwhere(own.matrix)]
        images.append(
            {
                "id": name,
                "split": "val",
                "image": f"{name}.png",
                "label": f"{name}.png",
                "miou": found.miou,
                "pixel_accuracy": found.pixel_accuracy,
                "critical": 0,
                "counts": counts,
            }
        )
    result: dict[str, Any] = {
        "checkpoint": f"runs/{HOSTILE.replace('/', '_')}/best",
        "step": 7,
        "prepared": "prepared/<i>tiny</i>",
        "splits": ["val"],
        "label_space": "tiny",
        "precision": "fp32",
        "images": len(images),
        "views": ["1x", "1x flipped"],
        **scores(total, SPACE).to_dict(),
        "frequency_weighted_iou": 0.8,
        "confusion_matrix": total.matrix.tolist(),
        **_sections(),
    }
    return result, images


def _sections() -> dict[str, Any]:
    names = SPACE.class_names
    edges = [(0, 1), (1, 2), (2, 4), (4, None)]
    distance = [
        {"from": a, "to": b, "pixels": 100, "errors": 40 - 9 * i, "error": 0.4 - 0.09 * i}
        for i, (a, b) in enumerate(edges)
    ]
    sizes = [
        {"from": 0, "to": 4096, "objects": 9, "found": 3, "pixels": 90, "errors": 60, "error": 0.6},
        {"from": 4096, "to": None, "objects": 0, "found": 0, "pixels": 0, "errors": 0}
        | {"error": None},
    ]
    bins = [
        {"from": 0.0, "to": 0.5, "pixels": 0, "confidence": None, "accuracy": None},
        {"from": 0.5, "to": 1.0, "pixels": 900, "confidence": 0.9, "accuracy": 0.8},
    ]
    pair = {"truth": "house", "prediction": "ground", "pixels": 12, "share": 0.01}
    return {
        "instance": {
            "iiou": 0.5,
            "classes": {"house": {"iiou": 0.5}},
            "categories": {"built": {"iiou": 0.5}},
        },
        "boundary": {
            "iou": 0.3,
            "f_score": 0.6,
            "classes": {name: {"iou": 0.3, "f_score": None} for name in names},
            "by_distance": distance,
        },
        "objects": {"kind": "components", "objects": 9, "found": 3, "by_size": sizes},
        "calibration": {
            "ece": 0.1,
            "bins": bins,
            "temperature": 1.4,
            "before": {"ece": 0.1, "nll": 0.5, "bins": bins},
            "after": {"ece": 0.02, "nll": 0.4, "bins": bins},
        },
        "critical": {
            "truth": ["house"],
            "prediction": ["ground"],
            "pixels": 1200,
            "share": 0.01,
            "pairs": [pair],
            "objects": 4,
            "missed": 1,
            "images": [{"id": HOSTILE, "split": "val", "pixels": 12}],
        },
        "tta": _tta(),
        "stress": _stress(),
    }


def _tta() -> dict[str, Any]:
    def view(name: str, miou: float, aligned: bool) -> dict[str, Any]:
        words = "adds 1.00 to the mean of the others" if aligned else "misaligned: 3.0 px <right>"
        return {
            "name": name,
            "miou": miou,
            "change": miou - 0.7,
            "without": 0.7,
            "aligned": aligned,
            "keep": aligned,
            "verdict": words,
        }

    return {
        "plain": {"miou": 0.7},
        "merged": {"miou": 0.72, "views": ["1x", "1x flipped"]},
        "views": [view("1x", 0.7, True), view("1x flipped", 0.2, False)],
        "classes": [
            {"name": name, "plain": 0.7, "merged": 0.72, "change": 0.02}
            for name in SPACE.class_names
        ],
        "sets": [{"name": "all", "views": ["1x", "1x flipped"], "miou": 0.72}],
        "recommended": {"name": "plain", "views": ["1x"], "miou": 0.7},
        "verdict": "TTA raises mIoU: 70.00 plain, 72.00 merged",
    }


def _stress() -> dict[str, Any]:
    def condition(kept: float) -> dict[str, Any]:
        classes = {name: {"iou": 0.7 * kept, "kept": kept} for name in SPACE.class_names}
        classes["boat"] = {"iou": None, "kept": None}
        return {"miou": 0.7 * kept, "kept": kept, "classes": classes}

    return {
        "severities": [1, 2, 3],
        "clean": {"miou": 0.7, "classes": {name: {"iou": 0.7} for name in SPACE.class_names}},
        "kinds": {
            kind: {str(s): condition(1 - 0.04 * s * (i + 1)) for s in (1, 2, 3)}
            for i, kind in enumerate(STRESSES)
        },
        "trained_on": {"fog": "train.augment.weather"},
        "warnings": ["training has shown fog & <more>"],
    }


def write_tiny_report(folder: Path) -> Path:
    """``folder/index.html`` with all sections."""
    from segcli.recipes.report import report_evaluation

    pictures = shown()
    result, images = evaluation(pictures)
    return report_evaluation(
        folder, result, images, SPACE, lambda entry: pictures[entry["id"]], title=HOSTILE
    )
