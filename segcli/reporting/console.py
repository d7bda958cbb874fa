"""The console: progress bars, tables and lines for whoever watches; plain text in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from segcli.reporting.events import NullReporter, Progress

# In a pipe a line per tenth is enough, unless they are hours apart or come in bursts.
_LONGEST_SILENCE_S = 60.0
_SHORTEST_SILENCE_S = 2.0


class ConsoleReporter(NullReporter):
    """Shows progress, tables and messages; numbers per step are left to the other reporters.

    On a terminal bars are redrawn in place, the inner of two nested ones goes when it is
    done. Anywhere else nothing but whole lines without control codes is written.

    Args:
        stderr: write there, so that stdout stays free for a program to read.
        console: a console of one's own, for tests.
    """

    def __init__(self, *, stderr: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(stderr=stderr, highlight=False)
        if not self._console.is_terminal:
            # No terminal, no width: a table in a pipe is as wide as its words.
            self._console.width = 10_000
        self._bars: RichProgress | None = None
        self._open = 0

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(
            title=_plain(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD
        )
        for index, heading in enumerate(columns):
            column = [row[index] for row in rows if index < len(row)]
            right = bool(column) and all(_is_numeric(cell) for cell in column)
            table.add_column(_plain(heading), justify="right" if right else "left")
        for row in rows:
            table.add_row(*(_plain(cell) for cell in row))
        self._console.print(table)

    def message(self, text: str) -> None:
        self._console.print(_plain(text), soft_wrap=True)

    def warning(self, text: str) -> None:
        line = Text("warning: ", style="bold yellow")
        line.append_text(_plain(text))
        self._console.print(line, soft_wrap=True)

    @contextmanager
    def progress(self, title: str, total: int, *, unit: str = "") -> Iterator[Progress]:
        if not self._console.is_terminal:
            yield _Lines(self.message, title, total, unit)
            return
        bars = self._bars
        if bars is None:
            bars = self._bars = _make_bars(self._console)
            bars.start()
        task = bars.add_task(str(_plain(title)), total=total or None, unit=unit, note="")
        self._open += 1
        try:
            yield _Bar(bars, task)
        finally:
            self._open -= 1
            if self._open:
                bars.remove_task(task)
            else:
                bars.stop()
                self._bars = None

    def done(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


class _Rate(ProgressColumn):
    """Steps per second, or seconds per step where that reads better."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_rate(speed, task.fields["unit"]) if speed else "", style="cyan")


def _make_bars(console: Console) -> RichProgress:
    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left", style="dim"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        refresh_per_second=5,
    )


class _Bar:
    def __init__(self, bars: RichProgress, task: Any) -> None:
        self._bars, self._task = bars, task

    def advance(self, steps: int = 1, **fields: Any) -> None:
        if fields:
            self._bars.update(self._task, advance=steps, note=_fields(fields))
        else:
            self._bars.update(self._task, advance=steps)


class _Lines:
    """Progress for pipes and log files: a line now and then."""

    def __init__(self, write: Callable[[str], None], title: str, total: int, unit: str) -> None:
        self._write, self._title, self._total, self._unit = write, title, total, unit
        self._count, self._shown_at = 0, 0
        self._start = self._last = time.monotonic()

    def advance(self, steps: int = 1, **fields: Any) -> None:
        self._count += steps
        now = time.monotonic()
        silence = now - self._last
        tenth = self._total and self._count - self._shown_at >= self._total / 10
        tenth = tenth and silence >= _SHORTEST_SILENCE_S
        finished = self._count >= self._total > self._shown_at
        if tenth or finished or silence >= _LONGEST_SILENCE_S:
            self._last, self._shown_at = now, self._count
            self._write(self._line(now - self._start, fields))

    def _line(self, elapsed: float, fields: dict[str, Any]) -> str:
        parts = [f"{self._title} {self._count}" + (f"/{self._total}" if self._total else "")]
        speed = self._count / elapsed if elapsed > 0 else 0.0
        if speed:
            parts.append(_rate(speed, self._unit))
        parts.append(_clock(elapsed))
        if speed and self._count < self._total:
            parts.append(f"left {_clock((self._total - self._count) / speed)}")
        if fields:
            parts.append(_fields(fields))
        return "  ".join(parts)


def _rate(speed: float, unit: str) -> str:
    unit = f" {unit}" if unit else ""
    if speed >= 100:
        return f"{speed:.0f}{unit}/s"
    return f"{speed:.1f}{unit}/s" if speed >= 1 else f"{speed:.2f}{unit}/s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _fields(fields: dict[str, Any]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in fields.items()
    )


def _plain(text: str) -> Text:
    """Text shown as it is: no markup, and no control code that a file name may carry."""
    return Text("".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}"
                        for c in text))  # fmt: skip


def _is_numeric(cell: str) -> bool:
    """Numbers, shares and empty or dashed cells are set flush right."""
    return cell.strip() in ("", "-", "–") or cell.lstrip("+-").replace(",", "")[:1].isdigit()
