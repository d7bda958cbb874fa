"""The evaluation report: sections put together and written as one file."""

from __future__ import annotations

from pathlib import Path

from segcli import files
from segcli.reporting.html.audits import (
    calibration_section,
    critical_section,
    edges_section,
    stress_section,
)
from segcli.reporting.html.data import ReportData
from segcli.reporting.html.gallery import details_section, images_section
from segcli.reporting.html.page import Section, document
from segcli.reporting.html.scores import classes_section, matrix_section
from segcli.reporting.html.summary import header
from segcli.reporting.html.tta import tta_section


def render_report(data: ReportData) -> str:
    """The page as text; a pure function of `data`."""
    optional = [
        images_section(data) if data.worst or data.images else None,
        details_section(data) if data.classes else None,
        edges_section(data),
        critical_section(data),
        calibration_section(data),
        tta_section(data),
        stress_section(data),
    ]
    sections: list[Section] = [classes_section(data), matrix_section(data)]
    sections += [section for section in optional if section is not None]
    title = f"{data.title} – evaluation"
    return document(title, header(data), sections, space=data.space)


def write_report(folder: Path, data: ReportData) -> Path:
    """Write ``index.html`` into `folder` and return its path.

    Raises:
        OutputError: when it cannot be written.
    """
    path = folder / "index.html"
    files.write_text(path, render_report(data))
    return path
