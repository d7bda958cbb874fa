"""Writing files whole or not at all, and reading them with one-line errors."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segcli.errors import OutputError, SegcliError

_TEMPORARY = ".tmp-"


def _write_failed(path: Path, error: OSError) -> OutputError:
    """One line for a failed write, with the free space when the disk is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        try:
            free = shutil.disk_usage(path.parent).free / 2**20
            hint = f"{free:.0f} MiB free there; make room or choose another folder"
        except OSError:
            hint = "make room or choose another folder"
        return OutputError("no space left to write", file=path, hint=hint)
    return OutputError(f"cannot write ({error.strerror or error})", file=path)


def make_folder(path: Path) -> Path:
    """Create `path` and its parents; a failure is an `OutputError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create folder ({error.strerror})", file=path) from None
    return path


@contextmanager
def atomic_path(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends well.

    The temporary file lies in the same folder, so that the rename cannot cross file
    systems. With `durable` its bytes reach the disk before the rename does, which keeps
    the promise through a power cut as well; bulk writers turn that off and verify hashes
    when they resume. A symlink at `path` is replaced, never followed.

    Raises:
        OutputError: when the file cannot be written, naming the file and the free space.
    """
    path = Path(path)
    make_folder(path.parent)
    # Two threads may write names that only differ late; 40 characters fit in any encoding.
    writer = f"{os.getpid()}-{threading.get_ident()}"
    temporary = path.with_name(f".{path.name[:40]}{_TEMPORARY}{writer}")
    try:
        yield temporary
        if durable:
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise _write_failed(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # on a read-only disk nothing can be removed either
            temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file that need not be there.

    Raises:
        OutputError: it is there, and stays.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove ({error.strerror})", file=path) from None


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` (renames, new files) reach the disk, where possible."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def write_bytes(path: str | Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path` atomically; see `atomic_path`."""
    with atomic_path(path, durable=durable) as temporary, open(temporary, "wb") as handle:
        handle.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any, *, indent: int | None = 2) -> None:
    """Write `value` as JSON to `path` atomically; NaN is refused, keys keep their order."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: str | Path, *, kind: type[SegcliError] = SegcliError) -> Any:
    """Parse a JSON file; whatever is wrong with it becomes one line of type `kind`."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise kind("no such file", file=path) from None
    except OSError as error:
        raise kind(f"cannot read ({error.strerror})", file=path) from None
    except (ValueError, RecursionError) as error:
        raise kind(f"not valid JSON, {error}", file=path) from None


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def is_running(process: str) -> bool:
    """Whether a process of this number runs on this machine; False for what is no number."""
    try:
        os.kill(int(process), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except OSError:
        pass  # somebody else's
    return True


def is_temporary(path: Path) -> bool:
    """Whether `path` is a leftover of an interrupted `atomic_path`."""
    return path.name.startswith(".") and _TEMPORARY in path.name
