"""Scores as rows of text, for the console and for logs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from segcli.metrics.confusion import Scores
from segcli.reporting.events import Reporter

Rows = list[list[str]]


def percent(value: float, digits: int = 2) -> str:
    """A rate of 0..1 in percent, and a dash where it has no meaning."""
    return f"{100 * value:.{digits}f}" if math.isfinite(value) else "-"


def class_rows(scores: Scores) -> tuple[Sequence[str], Rows]:
    """Columns and rows: class, IoU %, accuracy %, share of the labelled pixels %."""
    total = scores.pixels or math.nan
    columns = ("class", "IoU %", "accuracy %", "pixels %")
    parts = zip(
        scores.class_names,
        scores.class_iou,
        scores.class_accuracy,
        scores.class_pixels,
        strict=True,
    )
    return columns, [
        [name, percent(iou), percent(accuracy), percent(pixels / total)]
        for name, iou, accuracy, pixels in parts
    ]


def category_rows(scores: Scores) -> tuple[Sequence[str], Rows]:
    """Columns and rows: category, IoU %."""
    pairs = zip(scores.category_names, scores.category_iou, strict=True)
    return ("category", "IoU %"), [[name, percent(iou)] for name, iou in pairs]


def summary_rows(scores: Scores) -> tuple[Sequence[str], Rows]:
    """Columns and rows: the four figures that stand for all."""
    return ("score", "%"), [
        ["mIoU", percent(scores.miou)],
        ["category mIoU", percent(scores.category_miou)],
        ["pixel accuracy", percent(scores.pixel_accuracy)],
        ["mean class accuracy", percent(scores.mean_accuracy)],
    ]


def report_scores(reporter: Reporter, scores: Scores, title: str) -> None:
    """Tables of classes, categories and the summary, in this order."""
    reporter.table(title, *class_rows(scores))
    # Where every class is a category of its own, the second table would repeat the first.
    if len(scores.category_names) < len(scores.class_names):
        reporter.table("", *category_rows(scores))
    reporter.table("", *summary_rows(scores))
