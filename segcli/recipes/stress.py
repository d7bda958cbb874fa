"""Weather stress: how much of its clean score a model keeps in rain, snow, fog, at night ...

Every image is rendered in each of the seven kinds of `segcli.data.stress` at three
severities. A rendering depends on the seed, the image's id, the kind and the severity alone:
two models see the same weather, and a part of the images sees the same as all of them.

Where a model was trained in weather of the same kind, its kept share tells less than one may
think; `kinds_trained_on` finds that out from the checkpoint's training config.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcli.data.images import read_image, read_label
from segcli.data.manifest import Sample
from segcli.data.stress import SEVERITIES, STRESSES
from segcli.errors import UsageError
from segcli.inference.predictor import Predictor
from segcli.labels import LabelSpace
from segcli.metrics.confusion import ConfusionMatrix, Scores, scores
from segcli.parallel import map_ahead
from segcli.reporting.events import NullReporter, Reporter

Map = NDArray[np.uint8]

# The kinds that `train.augment.weather` draws, with code of its own.
_WEATHER = ("rain", "snow", "fog", "night", "blur", "drops")
# Transforms of `train.augment.extra` that depict what a stress kind depicts.
_EXTRA = {
    "rain": ("RandomRain", "Spatter"),
    "snow": ("RandomSnow",),
    "fog": ("RandomFog",),
    "night": ("RandomGamma",),
    "blur": (
        "AdvancedBlur",
        "Blur",
        "Defocus",
        "GaussianBlur",
        "GlassBlur",
        "MedianBlur",
        "MotionBlur",
        "ZoomBlur",
    ),
    "noise": ("AdditiveNoise", "GaussNoise", "ISONoise", "MultiplicativeNoise", "ShotNoise"),
    "drops": ("Spatter",),
}


class _View(NamedTuple):
    """One rendering of one image, and what it shows; severity 0 is the image itself."""

    condition: tuple[str, int]
    image: Map
    truth: Map


def stress_audit(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    kinds: Sequence[str] = tuple(STRESSES),
    severities: Sequence[int] = SEVERITIES,
    reporter: Reporter | None = None,
    seed: int = 0,
    training: Mapping[str, Any] | None = None,
    batch_size: int = 4,
) -> dict[str, Any]:
    """Score `predictor` in every kind and severity, and on the clean images.

    Args:
        training: the checkpoint's training config, for the warning about familiar weather.
        batch_size: renderings of one image that are predicted together.

    Returns:
        Plain JSON types: ``clean`` and, in ``kinds[kind][str(severity)]``, each condition
        with ``miou`` and ``classes`` {name: {iou}}; conditions also with ``kept`` (its
        score / the clean score, null where that is 0 or missing), overall and per class;
        ``mean`` over all conditions; ``trained_on`` {kind: why}; ``warnings``.

    Raises:
        DataError: an image or label that cannot be read.
        UsageError: an unknown kind or severity.
    """
    reporter = reporter or NullReporter()
    conditions = [("clean", 0), *_conditions(kinds, severities)]
    space = predictor.label_space
    counts = {c: ConfusionMatrix(space.num_classes, space.ignore_index) for c in conditions}
    views = map_ahead(
        lambda task: _render(*task, seed), _tasks(samples, conditions, space), ahead=batch_size + 2
    )
    with reporter.progress("stress", len(samples) * len(conditions), unit="views") as progress:
        for batch in _batches(views, batch_size):
            size = (batch[0].truth.shape[0], batch[0].truth.shape[1])
            maps = predictor.predict_batch([view.image for view in batch], size)
            for view, prediction in zip(batch, maps, strict=True):
                counts[view.condition].update(view.truth, prediction)
            progress.advance(len(batch))
    result = _summary({c: scores(m, space) for c, m in counts.items()}, kinds, severities)
    result = {"images": len(samples), "seed": seed, "severities": list(severities), **result}
    result["trained_on"] = {k: v for k, v in kinds_trained_on(training or {}).items() if k in kinds}
    result["warnings"] = _warnings(result["trained_on"])
    _report(reporter, result)
    return result


def kinds_trained_on(training: Mapping[str, Any]) -> dict[str, str]:
    """Stress kinds that training has shown the model in some rendering: {kind: config key}."""
    train = training.get("train") or {}
    augment = train.get("augment") or {}
    stages = train.get("stages") or [{}]
    colored = any(float(stage.get("augment", 1.0)) > 0 for stage in stages)
    seen: dict[str, str] = {}
    # A config without the share has the default one, which is more than none.
    weather = float(augment.get("weather") or 0) > 0 and float(augment.get("weather_share", 1)) > 0
    if weather and colored:
        seen = dict.fromkeys(_WEATHER, "train.augment.weather")
    names = [str(entry.get("name")) for entry in augment.get("extra") or ()]
    for kind, transforms in _EXTRA.items():
        used = [name for name in names if name in transforms]
        if used:
            seen.setdefault(kind, f"train.augment.extra: {used[0]}")
    return {kind: seen[kind] for kind in STRESSES if kind in seen}


def _conditions(kinds: Sequence[str], severities: Sequence[int]) -> list[tuple[str, int]]:
    for kind in kinds:
        if kind not in STRESSES:
            raise UsageError(f"no stress '{kind}'", hint=f"one of {', '.join(STRESSES)}")
    for severity in severities:
        if severity not in SEVERITIES:
            raise UsageError(f"no severity {severity}", hint="1, 2 or 3")
    return [(kind, severity) for kind in kinds for severity in severities]


_Task = tuple[str, Map, Map, tuple[str, int]]


def _tasks(
    samples: Sequence[Sample], conditions: Sequence[tuple[str, int]], space: LabelSpace
) -> Iterator[_Task]:
    """Every image in every condition; an image is read once, and let go when it is done."""
    for sample in samples:
        image = read_image(sample.image)
        truth = read_label(sample.label, label_space=space)
        for condition in conditions:
            yield sample.id, image, truth, condition


def _render(sample_id: str, image: Map, truth: Map, condition: tuple[str, int], seed: int) -> _View:
    kind, severity = condition
    if not severity:
        return _View(condition, image, truth)
    rng = np.random.default_rng(
        [seed, zlib.crc32(sample_id.encode()), zlib.crc32(kind.encode()), severity]
    )
    return _View(condition, STRESSES[kind](image, severity, rng), truth)


def _batches(views: Iterator[_View], size: int) -> Iterator[list[_View]]:
    """Neighbours of one size, `size` at most."""
    batch: list[_View] = []
    for view in views:
        first = batch[0] if batch else view
        fits = view.image.shape == first.image.shape and view.truth.shape == first.truth.shape
        if len(batch) == size or not fits:
            yield batch
            batch = []
        batch.append(view)
    if batch:
        yield batch


def _summary(
    by: Mapping[tuple[str, int], Scores], kinds: Sequence[str], severities: Sequence[int]
) -> dict[str, Any]:
    clean = _condition(by["clean", 0], None)
    table = {kind: {str(s): _condition(by[kind, s], clean) for s in severities} for kind in kinds}
    found = [entry for severity in table.values() for entry in severity.values()]
    return {
        "clean": clean,
        "kinds": table,
        "mean": {key: _mean([entry[key] for entry in found]) for key in ("miou", "kept")},
    }


def _condition(found: Scores, clean: Mapping[str, Any] | None) -> dict[str, Any]:
    full = found.to_dict()
    classes = {name: {"iou": entry["iou"]} for name, entry in full["classes"].items()}
    if clean is None:
        return {"miou": full["miou"], "classes": classes}
    for name, entry in classes.items():
        entry["kept"] = _share(entry["iou"], clean["classes"][name]["iou"])
    return {"miou": full["miou"], "kept": _share(full["miou"], clean["miou"]), "classes": classes}


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _worst_class(condition: Mapping[str, Any]) -> float | None:
    kept = [e["kept"] for e in condition["classes"].values() if e["kept"] is not None]
    return min(kept, default=None)


def _warnings(trained_on: Mapping[str, str]) -> list[str]:
    if not trained_on:
        return []
    keys = ", ".join(dict.fromkeys(trained_on.values()))
    return [
        f"training has shown {', '.join(trained_on)} ({keys}), drawn by other code: what is kept "
        "there tells of weather drawn otherwise, not of weather never seen"
    ]


def _report(reporter: Reporter, result: Mapping[str, Any]) -> None:
    """A table of kinds by severity: share of the clean mIoU that is kept, in percent."""
    for warning in result["warnings"]:
        reporter.warning(warning)
    severities = [str(s) for s in result["severities"]]
    rows = []
    for kind, by in result["kinds"].items():
        mark = " *" if kind in result["trained_on"] else ""
        cells = [_percent(by[s]["kept"]) for s in severities]
        rows.append([kind + mark, *cells, _percent(_worst_class(by[severities[-1]]))])
    title = f"share of the clean mIoU ({_percent(result['clean']['miou'])} %) kept, %"
    if result["trained_on"]:
        title += "; * a kind that training has shown"
    columns = ["stress", *(f"severity {s}" for s in severities), "worst class"]
    reporter.table(title, columns, rows)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
