"""What an export came to, as objects, JSON and a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segcli.recipes.export_parity import Parity
from segcli.reporting.events import Reporter


@dataclass(frozen=True)
class Exported:
    """An outcome.

    Attributes:
        target: such as `openvino-bf16`.
        path: the file to give in place of a checkpoint; None where it failed.
        megabytes: of all its files.
        parity: how it compares with the checkpoint.
        milliseconds: per image, picture in, class map out; None unless measured.
    """

    target: str
    path: Path | None
    megabytes: float
    parity: Parity
    milliseconds: float | None = None


@dataclass(frozen=True)
class ExportResult:
    """All outcomes, and the milliseconds of the torch network by precision, if measured."""

    folder: Path
    exports: tuple[Exported, ...]
    torch_milliseconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "folder": str(self.folder),
            "torch_milliseconds": self.torch_milliseconds,
            "exports": [
                {
                    "target": e.target,
                    "path": None if e.path is None else str(e.path),
                    "megabytes": e.megabytes,
                    "milliseconds": e.milliseconds,
                    **e.parity.to_dict(),
                }
                for e in self.exports
            ],
        }


def report_exports(result: ExportResult, reporter: Reporter) -> None:
    """A table of the outcomes, and a line for each that failed."""
    columns = ["export", "MB", "same class %", "largest difference", "mIoU %", "loss"]
    slowest = result.torch_milliseconds
    if slowest:
        columns += ["ms per image", "times torch fp32"]
    rows = []
    for export in result.exports:
        p = export.parity
        row = [
            export.target,
            f"{export.megabytes:.1f}",
            f"{100 * p.agreement:.3f}",
            f"{p.largest_difference:.2g}",
            _points(p.miou_after),
            _points(p.miou_before - p.miou_after),
        ]
        rows.append(row + _speed(export.milliseconds, slowest))
    for precision, milliseconds in slowest.items():
        empty = ["", "", "", "", ""]
        rows.append([f"torch {precision}", *empty, *_speed(milliseconds, slowest)])
    images = result.exports[0].parity.images if result.exports else 0
    reporter.table(f"exports, on {images} images", columns, rows)


def _points(share: float) -> str:
    return f"{100 * share:.2f}" if math.isfinite(share) else "-"


def _speed(milliseconds: float | None, torches: dict[str, float]) -> list[str]:
    if milliseconds is None or not torches:
        return []
    return [f"{milliseconds:.1f}", f"{torches['fp32'] / milliseconds:.2f}"]
