"""What a check found: for the screen, and for other programs."""

from __future__ import annotations

import dataclasses
from itertools import groupby
from typing import Any

from segcli.findings import ERROR, OK, WARNING, Finding, count
from segcli.reporting.events import Reporter

_SHOWN = 10
_WIDTH = 20  # of most codes


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """Every finding about one target.

    Attributes:
        kind: `raw`, `prepared`, `config` or `installation`.
        target: as typed; None for the installation.
        findings: in the order they were found.
    """

    kind: str
    target: str | None
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        return count(self.findings, ERROR)

    @property
    def warnings(self) -> int:
        return count(self.findings, WARNING)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `findings` holds errors, then warnings, then what is well."""
        return {
            "kind": self.kind,
            "target": self.target,
            "errors": self.errors,
            "warnings": self.warnings,
            "findings": [f.to_dict() for f in _ordered(self.findings)],
        }


def show(report: CheckReport, reporter: Reporter) -> None:
    """What is well first, then a paragraph for each kind of fault, with what to do about it."""
    for finding in report.findings:
        if finding.severity == OK:
            reporter.message(_line(finding))
    faults = [f for f in _ordered(report.findings) if f.severity != OK]
    for (severity, code, hint), group in groupby(
        faults, lambda f: (f.severity, f.code, f.hint if f.file else "")
    ):
        _show_group(severity, code, hint, list(group), reporter)
    words = [_plural(report.errors, "error"), _plural(report.warnings, "warning")]
    reporter.message(f"{report.target or 'this installation'}: {', '.join(words)}")


def _show_group(
    severity: str, code: str, hint: str, group: list[Finding], reporter: Reporter
) -> None:
    if len(group) == 1 or not hint:
        for finding in group:
            reporter.message(_line(finding))
        return
    reporter.message(f"{severity:<7}  {code:<{_WIDTH}}  {len(group)} times ({hint})")
    for finding in group[:_SHOWN]:
        reporter.message(f"           {finding._replace(hint='').line()}")
    if len(group) > _SHOWN:
        reporter.message(f"           ... {len(group) - _SHOWN} more, --json lists them all")


def _line(finding: Finding) -> str:
    return f"{finding.severity:<7}  {finding.code:<{_WIDTH}}  {finding.line()}"


def _ordered(findings: tuple[Finding, ...]) -> list[Finding]:
    """Errors first, equal codes and equal advice together, files in order."""
    rank = {ERROR: 0, WARNING: 1, OK: 2}
    return sorted(findings, key=lambda f: (rank[f.severity], f.code, f.hint, str(f.file or "")))


def _plural(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
