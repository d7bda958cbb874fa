"""Kill, stop and starve trainings at random moments; every one has to end with the same weights.

    python benchmarks/survival.py --runs 60 --kills 100 --terms 20

Runs of `segcli train` on a city of postage stamps, with size progression, averaging, parts of
batches, dropout, weather and 0 to 2 workers, get SIGKILL at random moments and are resumed until
they end; the SHA-256 of all their weights has to be that of the undisturbed run. A fifth of them
are runs of `segcli distill` with every loss; `--kinds distilled` has those alone. Then workers 0
to 3 against each other, SIGTERM (exit code 143, at most one step lost), a limit on the size of
files, and a full disk (a tmpfs; needs root). Exits with 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import torch

from segcli import checkpoint
from segcli.commands.app import main as segcli
from segcli.data.city import generate_city
from segcli.recipes.prepare import prepare_labels
from segcli.reporting.events import NullReporter

FORK = multiprocessing.get_context("fork")
SMALL = (
    *("model.encoder=mobilenet_v2", "model.width_mult=0.25", "model.width=16"),
    *("model.head_width=16", "model.weights=null", "model.dropout=0.1"),
    *("train.precision=fp32", "train.channels_last=true", "train.validate_every=2"),
)
STAGE = "{size: [32, 32], resize: 0.5, epochs: 2, batch_size: 4}"
LAST = "{size: [32, 64], epochs: 3, batch_size: 6, accumulate: 2, freeze_stride: 4}"
# Of the shortest of the kinds below.
STEPS = 12
KINDS: dict[str, tuple[str, ...]] = {
    "progression": (f"train.stages=[{STAGE}, {LAST}]", "train.checkpoint_minutes=0"),
    "weather": (
        "train.augment={preset: weather}",
        f"train.stages=[{STAGE}, {STAGE}]",
        "train.checkpoint_minutes=0.002",
    ),
    "sgd": (
        *("train.optimizer={name: sgd, schedule: onecycle, clip_norm: 1}", "train.ema=0.9"),
        *(f"train.stages=[{LAST}, {STAGE}]", "train.checkpoint_minutes=0.01"),
    ),
    "frozen": (
        *("train.freeze_encoder=2", "train.freeze_batchnorm=encoder", "model.decoder=unet"),
        *(f"train.stages=[{STAGE}, {LAST}]", "train.checkpoint_minutes=0"),
        "train.loss.terms={ohem: 1, dice: 0.5}",
    ),
    # By `segcli distill`: every loss, the discriminator with its own optimiser among them.
    "distilled": (
        "distill.losses={pixel: 1, channel: 3, pairwise: 10, feature: 1, holistic: 0.1}",
        *("distill.discriminator.width=4", "distill.coarse=[train_extra]"),
        *("distill.unlabelled=[val]", "distill.measure_every=3"),
        *(f"train.stages=[{STAGE}, {LAST}]", "train.checkpoint_minutes=0"),
    ),
}
TEACHER = "whole-progression-0"


def arguments(prepared: Path, folder: Path, kind: str, workers: int, *more: str) -> list[str]:
    teacher = ["--teacher", str(folder.parent / TEACHER)] if kind == "distilled" else []
    command = "distill" if teacher else "train"
    if checkpoint.has_checkpoint(folder / "last"):
        return [command, "--resume", str(folder), "--device", "cpu"]
    shutil.rmtree(folder, ignore_errors=True)
    settings = [*SMALL, *KINDS[kind], f"data.prepared={prepared}", f"data.workers={workers}", *more]
    words = [word for setting in settings for word in ("--set", setting)]
    run = ["--run-dir", str(folder), "--device", "cpu"]
    return [command, "fpn.yaml", *teacher, *run, *words]


def in_child(words: Sequence[str], output: Path, most_bytes: int | None) -> None:
    """Become `segcli` with these words; torch has been imported already, which saves seconds."""
    os.setsid()
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    segcli(list(words))


def start(words: Sequence[str], output: Path, most_bytes: int | None = None):
    process = FORK.Process(target=in_child, args=(words, output, most_bytes))
    process.start()
    return process


def finish(process) -> int:
    process.join(timeout=300)
    if process.exitcode is None:
        process.kill()
        raise SystemExit("a run hangs")
    return process.exitcode


def digest(folder: Path) -> str:
    """SHA-256 of all weights, raw and averaged, of moments, discriminator, and the step."""
    state = checkpoint.load_resume(folder / "last")
    total = hashlib.sha256(str(state["step"]).encode())
    for part in ("model", "average"):
        for name, value in sorted(state[part].items()):
            total.update(name.encode() + value.contiguous().numpy().tobytes())
    for number, moments in sorted(state["optimizer"]["state"].items()):
        for name, value in sorted(moments.items()):
            if torch.is_tensor(value):
                total.update(f"{number}{name}".encode() + value.contiguous().numpy().tobytes())
    for name, value in sorted(state.get("teaching", {}).get("loss", {}).items()):
        total.update(name.encode() + value.contiguous().numpy().tobytes())
    return total.hexdigest()


def has_begun(folder: Path) -> bool:
    return (folder / "environment.json").is_file()


def wait_for(condition, process) -> None:
    while not condition() and process.exitcode is None:
        time.sleep(0.005)


class Trial:
    """The tiny world, the undisturbed runs, and what went wrong."""

    def __init__(self, root: Path, seed: int, kinds: Sequence[str]) -> None:
        self.root, self.random, self.kinds = root, random.Random(seed), list(kinds)
        self.prepared = root / "prepared"
        city = root / "city"
        counts = {"train": 12, "val": 3, "train_extra": 2}
        generate_city(city, size=(64, 128), counts=counts, seed=1, drives=0, workers=1)
        prepare_labels(city, reporter=NullReporter(), out=self.prepared, workers=1)
        self.whole: dict[str, tuple[str, float]] = {}
        self.faults: list[str] = []

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.faults.append(what)
            print(f"FAILED: {what}", flush=True)

    def undisturbed(self, kind: str, workers: int = 0) -> tuple[str, float]:
        """(digest, seconds of training) of a run that nobody touches."""
        if kind == "distilled":
            self.undisturbed("progression")  # the teacher
        key = f"{kind}-{workers}"
        if key not in self.whole:
            folder = self.root / f"whole-{key}"
            began = time.perf_counter()
            process = start(arguments(self.prepared, folder, kind, workers), self.root / "log")
            wait_for(lambda: has_begun(folder), process)
            middle = time.perf_counter()
            code = finish(process)
            self.expect(code == 0, f"undisturbed run {key} ended with {code}")
            self.whole[key] = (digest(folder), time.perf_counter() - max(began, middle))
        return self.whole[key]

    def killed(self, number: int, most: int) -> int:
        """Kill a run at random moments until it ends by itself; returns the kills."""
        kind = self.kinds[number % len(self.kinds)]
        wanted, seconds = self.undisturbed(kind)
        folder, kills = self.root / f"killed-{number}", 0
        while True:
            words = arguments(self.prepared, folder, kind, workers=number % 3)
            process = start(words, self.root / "log")
            if kills < most:
                # By steps, which come at any speed, and somewhere in the next one.
                target = self.random.randrange(min(logged_step(folder), STEPS - 1), STEPS)
                wait_for(lambda: has_begun(folder) and logged_step(folder) >= target, process)  # noqa: B023
                process.join(timeout=self.random.uniform(0, 1.5 * seconds / STEPS))
                if process.exitcode is None:
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
            code = finish(process)
            if code != -signal.SIGKILL:
                break
        self.expect(code == 0, f"killed run {number} ({kind}) ended with {code}")
        self.expect(digest(folder) == wanted, f"killed run {number} ({kind}): other weights")
        shutil.rmtree(folder)
        return kills

    def stopped(self, number: int) -> int:
        """SIGTERM to the whole group, once, after the first step; whether it came in time.

        Without a word no checkpoint would be written within an epoch here.
        """
        kind = self.kinds[number % len(self.kinds)]
        wanted, seconds = self.undisturbed(kind)
        folder = self.root / f"stopped-{number}"
        rarely = "train.checkpoint_minutes=60"
        words = arguments(self.prepared, folder, kind, number % 3, rarely)
        process = start(words, self.root / "log")
        target = self.random.randrange(1, STEPS - 2)
        wait_for(lambda: logged_step(folder) >= target, process)
        process.join(timeout=self.random.uniform(0, seconds / STEPS))
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGTERM)
        code = finish(process)
        landed = code != 0
        if landed:
            self.expect(code == 143, f"stopped run {number} ended with {code}")
            lost = logged_step(folder) - checkpoint.verify(folder / "last")["step"]
            self.expect(lost <= 1, f"stopped run {number} lost {lost} steps")
            code = finish(start(arguments(self.prepared, folder, kind, 0), self.root / "log"))
        self.expect(code == 0 and digest(folder) == wanted, f"stopped run {number}: other weights")
        shutil.rmtree(folder)
        return int(landed)

    def starved(self, number: int) -> None:
        """A limit on the size of files that strikes in the middle of a checkpoint."""
        wanted, _ = self.undisturbed("progression")
        folder, log = self.root / f"starved-{number}", self.root / f"starved-{number}.log"
        first = arguments(self.prepared, folder, "progression", 0)
        process = start(first, self.root / "log")
        wait_for(lambda: checkpoint.has_checkpoint(folder / "last"), process)
        os.kill(process.pid, signal.SIGKILL)
        finish(process)
        before = checkpoint.verify_or_previous(folder / "last")[1]["step"]
        size = (checkpoint.verify_or_previous(folder / "last")[0] / "resume.pt").stat().st_size
        words = arguments(self.prepared, folder, "progression", 0)
        most = self.random.randrange(200_000, size)
        code = finish(start(words, log, most_bytes=most))
        self.expect(code == 1, f"starved run {number} ended with {code}")
        self.expect(f"{folder / 'last'}" in log.read_text(), "no file named")
        self.expect("MiB free" in log.read_text(), "no word of the space")
        self.expect("Traceback" not in log.read_text(), f"starved run {number}: a traceback")
        after = checkpoint.verify_or_previous(folder / "last")[1]["step"]
        self.expect(after >= before, f"starved run {number} lost its checkpoint")
        self.resumes(folder, "progression", wanted, f"starved run {number}")

    def full(self) -> None:
        """A disk that fills up while training writes its checkpoints."""
        disk = self.root / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True).returncode:
            print("skipped: a full disk (mounting a tmpfs needs root)")
            return
        try:
            wanted, _ = self.undisturbed("progression")
            folder, log = disk / "run", self.root / "full.log"
            process = start(arguments(self.prepared, folder, "progression", 0), log)
            wait_for(lambda: checkpoint.has_checkpoint(folder / "last"), process)
            fill(disk / "ballast")
            code = finish(process)
            self.expect(code == 1, f"the run on a full disk ended with {code}")
            text = log.read_text()
            self.expect("MiB free" in text and "error: " in text, f"no word of the space: {text}")
            self.expect("Traceback" not in text, "the run on a full disk: a traceback")
            self.expect(
                checkpoint.verify_or_previous(folder / "last")[1]["step"] > 0, "nothing left"
            )
            (disk / "ballast").unlink()
            self.resumes(folder, "progression", wanted, "the run on a full disk")
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)

    def resumes(self, folder: Path, kind: str, wanted: str, what: str) -> None:
        code = finish(start(arguments(self.prepared, folder, kind, 0), self.root / "log"))
        self.expect(code == 0 and digest(folder) == wanted, f"{what}: other weights, code {code}")


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as handle:
        try:
            while True:
                handle.write(bytes(2**16))
        except OSError:
            return


def logged_step(folder: Path) -> int:
    """The last step whose loss the log knows."""
    steps = [0]
    if (folder / "log.jsonl").is_file():
        for line in (folder / "log.jsonl").read_bytes().splitlines():
            if b'"loss/total"' in line:
                steps.append(json.loads(line)["step"])
    return steps[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--kills", type=int, default=100, help="at least, over all runs")
    parser.add_argument("--terms", type=int, default=20)
    parser.add_argument("--starved", type=int, default=5)
    parser.add_argument("--workers", type=int, default=3, help="compare 0 to this many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), options.seed, options.kinds)
        for workers in range(1, options.workers + 1):
            same = trial.undisturbed("weather", workers)[0] == trial.undisturbed("weather")[0]
            trial.expect(same, f"{workers} workers give other weights than none")
        each = 1 + -(-options.kills // max(1, options.runs))
        kills = sum(trial.killed(number, each) for number in range(options.runs))
        trial.expect(kills >= options.kills, f"{kills} kills are fewer than {options.kills}")
        terms = attempts = 0
        while terms < options.terms and attempts < 3 * options.terms:
            terms += trial.stopped(attempts)
            attempts += 1
        trial.expect(terms >= options.terms, f"only {terms} SIGTERMs came in time")
        for number in range(options.starved):
            trial.starved(number)
        trial.full()
        print(
            f"{options.runs} runs with {kills} SIGKILLs, {terms} SIGTERMs, workers 0 to "
            f"{options.workers}, {options.starved} file limits: {len(trial.faults)} faults, "
            f"{time.perf_counter() - began:.0f} s"
        )
        if trial.faults:
            print((Path(folder) / "log").read_text()[-3000:])
    return 1 if trial.faults else 0


if __name__ == "__main__":
    sys.exit(main())
