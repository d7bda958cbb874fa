"""Errors a user can cause. Each one is printed as a single line, without a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class SegcliError(Exception):
    """Something the user can mend: what is wrong, in which file, what to do.

    `str(error)` is one line: ``what: file (hint)``.
    """

    exit_code = 1

    def __init__(self, what: str, *, file: str | Path | None = None, hint: str = "") -> None:
        self.what, self.file, self.hint = what, file, hint
        line = what if file is None else f"{what}: {file}"
        if hint:
            line = f"{line} ({hint})"
        # A file name may hold a newline; the message stays one line all the same.
        super().__init__(line.replace("\r", "\\r").replace("\n", "\\n"))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its parts, so that it comes whole out of a loader's worker process."""
        return _rebuild, (type(self), self.what, self.file, self.hint)


def _rebuild(kind: type[SegcliError], what: str, file: str | Path | None, hint: str) -> SegcliError:
    return kind(what, file=file, hint=hint)


class UsageError(SegcliError):
    """A flag or an argument that cannot be meant."""

    exit_code = 2


class ConfigError(SegcliError):
    """A YAML file or an override that does not fit the schema."""


class DataError(SegcliError):
    """An image, a label or a data set that cannot be used as it is."""


class LabelSpaceError(DataError):
    """Two label spaces that differ, or one that is not well formed."""


class CheckpointError(SegcliError):
    """A checkpoint that is missing, damaged or of another kind."""


class OutputError(SegcliError):
    """Something could not be written: a full disk, a missing permission."""
