"""Worker processes for bulk conversion, and the journal that makes it resumable."""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from segcli.data.layouts import Fault, Pair
from segcli.data.tasks import Done, Task
from segcli.environment import die_with_parent, keep_freed_memory, usable_cores
from segcli.errors import OutputError, SegcliError
from segcli.files import make_folder, sha256_file, write_bytes

FORMAT = 1
PACK_FORMAT = 1
JOURNAL = ".journal.jsonl"
_BATCH = 8


class Record(NamedTuple):
    """A finished sample; `job` is a digest of everything its files depend on."""

    job: str
    done: Done


class Update(NamedTuple):
    """What a worker says about a sample; `redone` is False when its files were up to date."""

    job: str
    result: Done | Fault
    redone: bool


def key_of(pair: Pair | Done) -> str:
    """The name of a sample in the journal, unique in a data set."""
    return f"{pair.split}/{pair.id}"


# --- in the workers --------------------------------------------------------------------------


def _start_worker() -> None:
    """Ctrl-C is the parent's to handle; and a worker does not outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()


def _warm_up() -> None:
    """Import what conversion needs while the parent is still looking at the folders."""
    import cv2
    import PIL.ImageDraw  # noqa: F401

    import segcli.data.convert  # noqa: F401

    cv2.setNumThreads(0)
    # A polygons file is 10,000 small lists and no cycles: looking for some in each took a
    # quarter of the time of parsing.
    gc.set_threshold(200_000, 20, 20)
    # To fault arrays of 2 MB in again took a fifth of the time of a conversion.
    keep_freed_memory(2**26, 2**28)


def _update_batch(batch: Sequence[tuple[Pair, Record | None]], task: Task) -> list[Update]:
    return [update(pair, record, task) for pair, record in batch]


def update(pair: Pair, record: Record | None, task: Task) -> Update:
    """Convert a sample, unless `record` says that its files are already what they should be."""
    from segcli.data import convert

    job = _job(pair, task)
    if record is not None and record.job == job and _intact(record.done, task.out):
        return Update(job, record.done, False)
    return Update(job, convert.convert(pair, task, _tables(task)), True)


@lru_cache(maxsize=1)
def _tables(task: Task) -> Any:
    from segcli.data import convert

    return convert.make_tables(task)


def _job(pair: Pair, task: Task) -> str:
    """Digest of options and sources; a source has changed when size or time of change has."""
    space = task.label_space.to_dict()
    value: list[Any] = [FORMAT, space, task.layout, task.also, task.one_hot, task.mask_values]
    if pair.split in task.pack_splits:
        value.append([PACK_FORMAT, task.pack])
    for path in (pair.image, pair.annotation):
        try:
            status = path.stat()
            value.append([str(path.relative_to(task.root)), status.st_size, status.st_mtime_ns])
        except OSError:
            value.append(None)
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def _intact(done: Done, out: Path) -> bool:
    try:
        return all(sha256_file(out / name) == digest for name, digest in done.outputs.items())
    except OSError:
        return False


# --- in the parent ---------------------------------------------------------------------------


class Workers:
    """A pool of processes that is started before there is work, and stopped whatever happens.

    With one worker everything runs in this process.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self._count > 1:
            context = multiprocessing.get_context(_start_method())
            self._pool = ProcessPoolExecutor(self._count, context, _start_worker)
            # Forked workers all start with the first call, before any thread of ours does.
            for _ in range(self._count):
                self._pool.submit(_warm_up)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def update_all(
        self, work: Sequence[tuple[Pair, Record | None]], task: Task
    ) -> Iterator[list[Update]]:
        """Updates in the order of `work`, batch by batch; few batches are in flight at a time.

        Raises:
            SegcliError: when a worker process was killed.
            OutputError: when a file cannot be written.
        """
        size = max(1, min(_BATCH, len(work) // (4 * self._count)))
        batches = (work[at : at + size] for at in range(0, len(work), size))
        if self._pool is None:
            for batch in batches:
                yield _update_batch(batch, task)
            return
        flying: deque[Future[list[Update]]] = deque()
        try:
            for batch in batches:
                flying.append(self._pool.submit(_update_batch, batch, task))
                if len(flying) > 4 * self._count:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        except BrokenProcessPool:
            raise SegcliError(
                "a worker process was killed", hint="out of memory? try --workers 1"
            ) from None


def _start_method() -> str:
    """Fork, which starts in no time, where no thread of ours can be caught in mid-air."""
    threads = threading.active_count() > 1 or "torch" in sys.modules
    available = multiprocessing.get_all_start_methods()
    return "fork" if "fork" in available and not threads else "spawn"


def worker_count(asked: int | None) -> int:
    """The number asked for, else the cores this process may use."""
    return asked or usable_cores()


class Journal:
    """Finished samples, a line each, appended as they come; a torn last line is passed over.

    Raises:
        OutputError: when it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL

    def load(self) -> dict[str, Record]:
        """Records by sample name; of two for one sample the later."""
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            return {}
        records = {}
        for line in lines:
            record = _parse(line)
            if record is not None:
                records[key_of(record.done)] = record
        return records

    def append(self, records: Sequence[Record]) -> None:
        """Add lines; the leading line break ends a line that an earlier run left torn."""
        make_folder(self._path.parent)
        data = b"".join(b"\n" + _line(r) for r in records)
        try:
            with open(self._path, "ab") as handle:
                handle.write(data + b"\n")
        except OSError as error:
            raise OutputError(f"cannot write ({error.strerror})", file=self._path) from None

    def rewrite(self, records: Sequence[Record]) -> None:
        """Replace the journal by these records: the same bytes however often a run broke."""
        write_bytes(self._path, b"".join(_line(r) + b"\n" for r in records))


def _line(record: Record) -> bytes:
    value = {"job": record.job, **record.done._asdict()}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _parse(line: bytes) -> Record | None:
    try:
        value = json.loads(line)
        height, width = value["size"]
        pixels = tuple(int(n) for n in value["pixels"])
        outputs = {str(k): str(v) for k, v in value["outputs"].items()}
        done = Done(str(value["split"]), str(value["id"]), (height, width), pixels, outputs)
        return Record(str(value["job"]), done)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
