"""What a small student gains from a teacher on CamVid, with the same student alone beside it.

    python benchmarks/distill.py run --prepared prepared/camvid-11 --weights mobilenet_v2.pth \
        --work distill-bench
    python benchmarks/distill.py table --work distill-bench

A quarter of the training pictures is labelled: the first 91 by name, a fixed contiguous list.
The teacher, MobileNetV2 with ImageNet weights and an FPN of 128 channels, is trained on that
quarter alone; the student has half its width everywhere and starts from random weights. All
see pictures at half size. Arms differ in what the student is taught, and in nothing else:
seed, first weights, order and views of the labelled pictures, pictures in a step and number of
steps are the same. Two are special: of the eight pictures in a step `unlabelled` has four with
labels and four without, and `alone-time` trains alone for as long as that takes, 1.48 times as
many steps.
Scores are those of the last checkpoint on val (101 pictures), never of the best one. The weights
of the losses and the number of steps were set on seed 9, which no table holds.

`run` works through all jobs that have no result yet, two at a time, each in a process of one
thread; stopped and started again it begins the jobs anew that it was at. `run ARM:SEED ...` does
those alone. With `--labelled all` all 367 pictures are labelled, the teacher has 256 channels
and twice the steps, and no arm has other pictures. Prepare CamVid with `--pack`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from segcli import files
from segcli.config import Config
from segcli.config_file import parse_config
from segcli.data.manifest import Manifest, Sample, load_manifest, write_manifest
from segcli.errors import SegcliError
from segcli.reporting.events import NullReporter

QUARTER = 4
# Many steps: a student from scratch is far from trained after few, and then no teacher can be
# seen to help; after 1,500 it gains half of what it does after 2,800.
STEPS, BATCH, CROP, RATE = 2400, 8, (128, 160), 3e-3
# Steps and channels of the teacher, by what is labelled: all deserves the larger one.
TEACHERS = {"quarter": (1320, 128), "all": (1800, 256)}
TEACHER_BATCH, TEACHER_CROP, TEACHER_RATE = 8, (192, 256), 1.5e-3
# What a step with unlabelled pictures takes, in steps alone: 1.39 (fast steps), 1.43 (medians) and
# 1.45 (means) for seeds 0 and 1, run side by side. A ratio for each seed would mostly say how busy
# the machine was; this one is in favour of the student alone.
COST = 1.48
PAPER = {"pixel": 1.0, "pairwise": 10.0, "holistic": 0.1}
# Arm -> the distillation losses, and what else is special about it.
ARMS: dict[str, dict[str, Any]] = {
    "alone": {},
    "pixel": {"losses": {"pixel": 1.0}},
    "pixel+channel": {"losses": {"pixel": 1.0, "channel": 3.0}},
    "pixel+channel+pairwise": {"losses": {"pixel": 1.0, "channel": 3.0, "pairwise": 10.0}},
    "paper": {"losses": PAPER},
    "shuffled": {"losses": {"pixel": 1.0, "channel": 3.0}, "shuffled": True},
    "unlabelled": {"losses": {"pixel": 1.0, "channel": 3.0}, "unlabelled": True},
    "alone-time": {"longer": COST},
}
TEACHER = "teacher:0"
HEADLINE = ("alone", "unlabelled", "alone-time")
# 0.975 quantiles of Student's t by degrees of freedom; of more the last, which is cautious.
T = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
TUNED_ON = 9


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    try:
        if args.what == "table":
            sys.stdout.write(table(args.work))
        elif args.job:
            run_job(args, *args.job.rsplit(":", 1))
        else:
            run_all(args)
    except SegcliError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


# --- jobs ------------------------------------------------------------------------------------


def to_do(args: argparse.Namespace) -> list[str]:
    """The jobs without a result, seed by seed."""
    arms = [a for a in ARMS if args.labelled == "quarter" or not needs_rest(a)]
    wanted = list(args.jobs)
    for seed in range(0 if wanted else max(args.seeds, args.headline_seeds)):
        wanted += [f"{a}:{seed}" for a in arms if seed < args.seeds or a in HEADLINE]
    return [j for j in wanted if j != TEACHER and not result_path(args.work, j).is_file()]


def needs_rest(arm: str) -> bool:
    return bool(ARMS[arm].get("unlabelled")) or "longer" in ARMS[arm]


def run_all(args: argparse.Namespace) -> None:
    """The teacher first, then every job without a result; a job that fails stops no other."""
    split_camvid(args)
    if not teacher_is_trained(args):
        start(args, TEACHER)
    with ThreadPoolExecutor(args.parallel) as pool:
        done = [pool.submit(start, args, job) for job in to_do(args)]
    for job in done:
        job.result()


def teacher_is_trained(args: argparse.Namespace) -> bool:
    """Whether its last checkpoint is of its last step, and not of one it was stopped at."""
    path = args.work / "runs" / TEACHER.replace(":", "-") / "last" / "checkpoint.json"
    if not path.is_file():
        return False
    stage = config_of(args, "teacher", 0).train.stages[0]
    count = len(load_manifest(args.work / "data").split("labelled"))
    return bool(files.read_json(path)["step"] >= stage.epochs * (count // stage.batch_size))


def start(args: argparse.Namespace, job: str) -> None:
    """Do a job in a process of its own."""
    command = [sys.executable, __file__, "run", "--job", job, "--work", str(args.work)]
    command += ["--weights", str(args.weights), "--labelled", args.labelled]
    command += ["--steps", str(args.steps)]
    # Two threads that wait for each other on a busy machine burn time that looks like work.
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    if subprocess.run(command, env=environment).returncode:
        raise SegcliError(f"job {job} failed", file=args.work)
    done = files.read_json(result_path(args.work, job))
    now = time.strftime("%H:%M")
    sys.stdout.write(f"{now} {job}: mIoU {done['miou']:.4f}, {done['cpu_seconds']:.0f} CPU s\n")
    sys.stdout.flush()


def result_path(work: Path, job: str) -> Path:
    return work / "results" / f"{job.replace(':', '-')}.json"


def split_camvid(args: argparse.Namespace) -> None:
    """Write a prepared folder whose splits are `labelled`, `rest` and `val`."""
    folder, about = args.work / "data", args.work / "labelled.txt"
    if (folder / "manifest.json").is_file():
        labelled = about.read_text().strip() if about.is_file() else "quarter"
        if labelled != args.labelled:
            raise SegcliError(f"its pictures were split with --labelled {labelled}", file=args.work)
        return
    if args.weights is None:
        raise SegcliError("--weights is needed", hint="ImageNet weights of MobileNetV2")
    if args.prepared is None:
        raise SegcliError("--prepared is needed once", hint="the folder of prepared CamVid")
    whole = load_manifest(args.prepared)
    train = whole.split("train")
    count = len(train) // QUARTER if args.labelled == "quarter" else len(train)
    parts = {"labelled": train[:count], "rest": train[count:], "val": whole.split("val")}
    splits = {k: tuple(moved(s, whole, folder) for s in v) for k, v in parts.items()}
    write_manifest(dataclasses.replace(whole, folder=folder.resolve(), splits=splits))
    files.write_text(about, args.labelled + "\n")


def moved(sample: Sample, whole: Manifest, folder: Path) -> Sample:
    """The sample with a copy of its label, and of its packed copy, below `folder`."""

    def copied(path: Path) -> Path:
        place = folder.resolve() / path.relative_to(whole.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        return place

    packed = None if sample.packed is None else copied(sample.packed)
    return dataclasses.replace(sample, label=copied(sample.label), one_hot=None, packed=packed)


def run_job(args: argparse.Namespace, arm: str, seed: str) -> None:
    """Train one arm with one seed from the start, and write its result."""
    import torch

    from segcli.environment import keep_freed_memory
    from segcli.recipes.train import train
    from segcli.reporting.events import Reporters
    from segcli.reporting.jsonl import JsonLinesReporter

    keep_freed_memory()
    folder = args.work / "runs" / f"{arm}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    config = config_of(args, arm, int(seed))
    batch = config.train.stages[0].batch_size
    clock = StepClock(len(load_manifest(args.work / "data").split("labelled")) // batch)
    reporter = Reporters(clock, JsonLinesReporter(folder / "log.jsonl"))
    started = time.perf_counter()
    result = train(
        config,
        folder=folder,
        device=torch.device("cpu"),
        reporter=reporter,
        teach=teaching(args, config, arm),
    )
    wall = time.perf_counter() - started
    reporter.done()
    scores = files.read_json(folder / "last" / "checkpoint.json")["scores"]
    figures = {"arm": arm, "seed": int(seed), "steps": result.steps, "miou": result.last_miou}
    figures |= {"cpu_seconds": clock.seconds(), "seconds": wall, "threads": torch.get_num_threads()}
    files.write_json(result_path(args.work, f"{arm}:{seed}"), {**figures, "scores": scores})


class StepClock(NullReporter):
    """CPU seconds of all steps, loading included, validation and checkpoints not.

    Args:
        per_epoch: steps of an epoch, behind which a checkpoint is written.
    """

    def __init__(self, per_epoch: int) -> None:
        self.per_epoch = per_epoch
        self.times: list[float] = []

    def scalar(self, name: str, value: float, step: int) -> None:
        if name == "loss/total":
            self.times.append(time.process_time())

    def seconds(self) -> float:
        """The first step of each epoch is taken to be like the others."""
        between = zip(self.times, self.times[1:], strict=False)
        steps = [b - a for i, (a, b) in enumerate(between, 1) if i % self.per_epoch]
        return statistics.mean(steps) * len(self.times)


def teaching(args: argparse.Namespace, config: Config, arm: str) -> Any:
    """What `train` is to add to the student's run; None for those alone."""
    if config.distill is None:
        return None
    from segcli.recipes.distill_data import find_extra
    from segcli.recipes.distill_step import Distillation
    from segcli.recipes.distill_teacher import Teacher, load_teacher

    settings = config.distill

    class Shuffled(Teacher):
        """Says of every picture what it thinks of its neighbour in the batch."""

        def __call__(self, images: Any) -> Any:
            answer = super().__call__(images)
            logits, features = answer.logits.roll(1, 0), answer.features.roll(1, 0)
            return answer._replace(logits=logits, features=features)

    teacher = load_teacher(args.work / "runs" / "teacher-0" / "last")
    if ARMS[arm].get("shuffled"):
        teacher = Shuffled(**vars(teacher))
    return lambda run: Distillation(run, teacher, find_extra(settings, run.manifest))


def config_of(args: argparse.Namespace, arm: str, seed: int) -> Config:
    """The experiment of an arm; it is the same for all of them where they need not differ."""
    teacher = arm == "teacher"
    batch = TEACHER_BATCH if teacher else BATCH
    if ARMS.get(arm, {}).get("unlabelled"):
        batch //= 2  # as many extra pictures join them
    per_epoch = len(load_manifest(args.work / "data").split("labelled")) // batch
    teacher_steps, teacher_width = TEACHERS[args.labelled]
    steps = teacher_steps if teacher else args.steps
    epochs = max(1, round(steps / per_epoch))
    epochs = round(epochs * ARMS.get(arm, {}).get("longer", 1.0))
    crop = list(TEACHER_CROP if teacher else CROP)
    width = teacher_width if teacher else 64
    model = {"encoder": "mobilenet_v2", "width": width, "head_width": width}
    model |= {"weights": str(args.weights)} if teacher else {"width_mult": 0.5}
    value: dict[str, Any] = {
        "data": {
            "prepared": str(args.work / "data"),
            "label_space": "camvid-11",
            "train": ["labelled"],
            "workers": 0,
        },
        "model": model,
        "train": {
            "stages": [{"size": crop, "resize": 0.5, "epochs": epochs, "batch_size": batch}],
            "optimizer": {
                "lr": TEACHER_RATE if teacher else RATE,
                "encoder_lr_factor": 0.3 if teacher else 1.0,
            },
            "loss": {"class_weights": "sqrt"},
            "validate_every": 10_000,
            # Fixed, for a measurement could choose otherwise for another arm.
            "precision": "bf16",
            "channels_last": True,
            "seed": seed,
        },
        "eval": {"size": [180, 240]},
    }
    if losses := ARMS.get(arm, {}).get("losses"):
        value["distill"] = {"losses": losses, "measure_every": 100}
        if ARMS[arm].get("unlabelled"):
            # To the end: the streets of `rest` are nearer to those of val than the labelled ones.
            value["distill"] |= {"unlabelled": ["rest"], "fine_only": 0.0}
    return parse_config(value)


# --- results ---------------------------------------------------------------------------------


def table(work: Path) -> str:
    """Scores of every arm, and what it gained, in points and seed by seed, as Markdown."""
    found: dict[str, dict[int, Any]] = {}
    for path in sorted((work / "results").glob("*.json")):
        value = files.read_json(path)
        if value["seed"] == TUNED_ON:
            continue
        found.setdefault(value["arm"], {})[value["seed"]] = value
    lines = [
        "| arm | seeds | val mIoU-11 | against alone | against alone, same time | CPU s | steps |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for arm in ("teacher", *ARMS):
        runs = found.get(arm)
        if not runs:
            continue
        scores = [100 * r["miou"] for r in runs.values()]
        spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
        cells = [arm, str(len(runs)), f"{statistics.mean(scores):.2f}{spread}"]
        for other in ("alone", "alone-time"):
            skip = arm in ("teacher", other) or other not in found
            cells.append("" if skip else gain(runs, found[other]))
        cells.append(f"{statistics.mean(r['cpu_seconds'] for r in runs.values()):.0f}")
        cells.append(f"{statistics.mean(r['steps'] for r in runs.values()):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    note = "± is the standard deviation over seeds; brackets hold 95 % intervals of the mean"
    return "\n".join([*lines, "", f"{note} of paired differences (Student's t)."]) + "\n"


def gain(runs: dict[int, Any], base: dict[int, Any]) -> str:
    """Mean paired difference in points, with its 95 % interval over the seeds of both."""
    both = sorted(runs.keys() & base.keys())
    differences = [100 * (runs[s]["miou"] - base[s]["miou"]) for s in both]
    if not differences:
        return ""
    mean = statistics.mean(differences)
    if len(differences) == 1:
        return f"{mean:+.2f}"
    half = T[min(len(both) - 1, max(T))] * statistics.stdev(differences) / math.sqrt(len(both))
    verdict = "" if abs(mean) > half else ", noise?"
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}{verdict}]"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What distillation gains on CamVid.")
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("jobs", nargs="*", metavar="ARM:SEED", help="these jobs alone")
    parser.add_argument("--work", type=Path, required=True, help="folder of data, runs, results")
    parser.add_argument("--prepared", type=Path, help="prepared CamVid, camvid-11")
    parser.add_argument("--weights", type=Path, help="ImageNet weights of MobileNetV2")
    parser.add_argument("--labelled", choices=("quarter", "all"), default="quarter")
    parser.add_argument("--steps", type=int, default=STEPS, help="of every arm but alone-time")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--headline-seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of a job")
    parser.add_argument("--parallel", type=int, default=2, help="jobs at a time")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
