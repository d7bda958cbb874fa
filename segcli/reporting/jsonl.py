"""A log that scripts can read: one JSON object per line, on disk as soon as it happened."""

from __future__ import annotations

import contextlib
import json
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from segcli.reporting.events import NullReporter


class JsonLinesReporter(NullReporter):
    """Appends scalars, tables, messages and warnings to a file; pictures are left out.

    Every line has `time` (seconds since 1970) and `event`; a number that is not finite is
    null. When the disk is full the log ends with one warning, and the caller goes on.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._file: IO[bytes] | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            torn = _ends_torn(self._path)
            self._file = self._path.open("ab")
            if torn:
                self._file.write(b"\n")
        except OSError as error:
            self._give_up(error)

    def scalar(self, name: str, value: float, step: int) -> None:
        self.event("scalar", name=name, value=value, step=step)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.event("table", title=title, columns=list(columns), rows=[list(r) for r in rows])

    def message(self, text: str) -> None:
        self.event("message", text=text)

    def warning(self, text: str) -> None:
        self.event("warning", text=text)

    def event(self, kind: str, **fields: Any) -> None:
        """Append ``{"time": ..., "event": kind, **fields}``; `fields` are JSON types."""
        if self._file is None:
            return
        line = {"time": round(time.time(), 3), "event": kind, **_finite(fields)}
        try:
            self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode())
            self._file.write(b"\n")
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def done(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        warnings.warn(f"log stopped ({error.strerror or error}): {self._path}", stacklevel=4)
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


def _ends_torn(path: Path) -> bool:
    """Whether the file's last line lacks its end: a killed run that is resumed."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) != b"\n"


def _finite(value: Any) -> Any:
    """`value` with every nan and infinity in it replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
