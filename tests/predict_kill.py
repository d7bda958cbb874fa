"""Runs predictions that are killed at a chosen write, or that hit a full disk; for test_predict.

    python predict_kill.py FOLDER

FOLDER holds in/ and runs/. One process imports everything and forks a child for each death, so
that a death costs milliseconds. Prints one word a line for what went as it should not.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

from segcli import files
from segcli.errors import OutputError
from segcli.recipes.predict import predict_files
from segcli.recipes.predict_output import Wanted

WANTED = Wanted(confidence=True, reject_below=0.3)


def run(out: str, **options: int) -> None:
    predict_files(["in"], out=Path(out), wanted=WANTED, batch_size=2, device="cpu", **options)


def forked(job: Callable[[], None]) -> int:
    """Exit status of a child that does `job`; 0 if it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            job()
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(number: int, moment: str) -> int:
    """Dies at the `number`-th file: while it is written, before its rename or after it."""
    whole, count = files.atomic_path, iter(range(1, 10_000))

    @contextmanager
    def deadly(path: Path, *, durable: bool = True) -> Iterator[Path]:
        due = next(count) == number
        with whole(path, durable=durable) as temporary:
            if due and moment == "writing":
                temporary.write_bytes(b"\x89PNG half of it")
                os.kill(os.getpid(), signal.SIGKILL)
            yield temporary
            if due and moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)

    def job() -> None:
        files.atomic_path = deadly
        run("killed")

    return forked(job)


def full() -> None:
    """A disk on which no file can grow beyond a few hundred bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
    try:
        run("full")
    except OutputError:
        return
    print("wrote on a full disk")


def names(out: str) -> list[str]:
    return sorted(str(p) for p in Path(out).rglob("*") if p.is_file())


def main() -> None:
    os.chdir(sys.argv[1])
    run("whole")  # in this process, whose children then find all of it imported
    left = 0
    for number, moment in [(1, "writing"), (5, "before"), (3, "after"), (7, "writing")]:
        if killed(number, moment) != -signal.SIGKILL:
            print(f"no death at {number}")
        left += any(files.is_temporary(p) for p in Path("killed").rglob("*"))
    if left < 3:
        print("a kill while writing leaves a temporary file, or this is no test")
    if forked(lambda: run("killed")):
        print("the last run failed")
    if forked(full):
        print("full disk")
    if names("full"):
        print(f"left on a full disk: {names('full')}")


if __name__ == "__main__":
    main()
