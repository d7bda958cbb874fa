"""What lies in a folder of raw data, whatever its names and links are."""

from __future__ import annotations

import os
from pathlib import Path

from segcli.errors import DataError


def is_text(name: str) -> bool:
    """Whether a name can be written into a manifest; old archives hold some that cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def in_text(path: Path) -> Path:
    """The path with bytes that are no text as escapes, to be shown and stored."""
    return Path(os.fsencode(path).decode("utf-8", "backslashreplace"))


def walk(folder: Path) -> list[Path]:
    """Files below `folder`, hidden ones left out (editors and file managers leave some).

    Links are followed, but not to a folder that they lie in.

    Raises:
        DataError: a folder that cannot be listed: what is in it would be lost without a word.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise DataError(f"cannot read ({error.strerror})", file=Path(error.filename))

    found: list[Path] = []
    above: dict[str, frozenset[str]] = {}
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        found += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
        known = above.pop(parent, frozenset()) | {os.path.realpath(parent)}
        inside = {n: os.path.join(parent, n) for n in sorted(folders) if not n.startswith(".")}
        folders[:] = [n for n, path in inside.items() if os.path.realpath(path) not in known]
        above |= {inside[name]: known for name in folders}
    return found
