"""Export: a checkpoint as ONNX and OpenVINO files, each held against the torch network.

Every target gets a folder of its own, ``OUT/onnx-fp32`` say, with ``model.onnx`` (or
``model.xml`` and ``model.bin``) and ``export.json``. It is built beside its place and renamed
into it when it has proved to predict the same; what has not is never put there.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from segcli import exported, files
from segcli.checkpoint import Checkpoint, load_checkpoint, previous_of
from segcli.data.images import read_image
from segcli.data.manifest import Manifest, Sample, load_manifest
from segcli.environment import describe_environment
from segcli.errors import DataError, LabelSpaceError, UsageError
from segcli.inference.predictor import Predictor
from segcli.recipes.export_graph import (
    DEFAULTS,
    TARGETS,
    ExportError,
    Size,
    Target,
    write_onnx,
    write_target,
)
from segcli.recipes.export_parity import Limits, Parity, benchmark, compare
from segcli.recipes.export_report import Exported, ExportResult
from segcli.reporting.events import NullReporter, Reporter
from segcli.runs import EXPORT, find_checkpoint, run_folder

_BENCHMARK_IMAGES = 4


def export_run(
    run_or_checkpoint: Path | None = None,
    *,
    targets: Sequence[str] = DEFAULTS,
    size: Size | None = None,
    out: Path | None = None,
    prepared: Path | None = None,
    calibration: int = 100,
    limit: int = 100,
    limits: Limits | None = None,
    measure: bool = False,
    reporter: Reporter | None = None,
) -> ExportResult:
    """Export a checkpoint, check every file on real pictures, and put the good ones in place.

    Args:
        run_or_checkpoint: None takes the newest run's best.
        targets: names of `TARGETS`.
        size: (h, w) that the graphs are fixed to; None takes pictures of any size.
        out: None takes ``RUN/export``.
        prepared: a prepared data set; None takes the one the run was validated on.
        calibration: training pictures to calibrate int8 with, evenly spaced.
        limit: validation pictures to compare on, evenly spaced.
        measure: milliseconds per image too.

    Returns:
        The outcomes; a failed one has no path.

    Raises:
        CheckpointError, DataError, ExportError, ExtraMissingError, LabelSpaceError,
        OutputError, UsageError.
    """
    reporter = reporter or NullReporter()
    wanted = _targets(targets)
    _import_all(wanted)
    found = find_checkpoint(run_or_checkpoint)
    if exported.is_exported(found):
        raise UsageError("this is an exported network, not a checkpoint", file=found)
    checkpoint = load_checkpoint(found, warn=reporter.warning)
    manifest = _manifest(checkpoint, prepared)
    val = tuple(checkpoint.data.get("val") or ("val",))
    samples = _evenly([s for name in val for s in manifest.split(name)], limit)
    folder = files.make_folder(out or run_folder(checkpoint.path) / EXPORT)
    reference = _reference(checkpoint, size, "fp32")
    pictures = partial(_pictures, checkpoint, manifest, reference, calibration)
    with _building(folder) as building:
        built = _build(checkpoint, building, wanted, size, pictures, reporter)
        predictors = {name: Predictor.from_checkpoint(path) for name, path in built.items()}
        parity = compare(
            reference, predictors, samples, limits=limits or Limits(), reporter=reporter
        )
        times = {}
        if measure:
            torches = {"fp32": reference, "bf16": _reference(checkpoint, size, "bf16")}
            times = _measure({**torches, **predictors}, samples, reporter)
        exports = tuple(
            _put(name, path, folder, parity[name], times.get(name)) for name, path in built.items()
        )
    return ExportResult(folder, exports, {k: times[k] for k in ("fp32", "bf16") if k in times})


def _targets(names: Sequence[str]) -> list[Target]:
    for name in names:
        if name not in TARGETS:
            raise UsageError(f"unknown target '{name}'", hint=f"known: {', '.join(TARGETS)}")
    return [TARGETS[name] for name in dict.fromkeys(names)]


def _import_all(targets: Sequence[Target]) -> None:
    """Meet a missing library before minutes of work, not after."""
    names = ["onnx"]
    if any(t.format == "openvino" for t in targets):
        names.append("openvino")
    if any(t.format == "onnx" for t in targets):
        names.append("onnxruntime")
    if any(t.precision == "int8" for t in targets):
        names.append("nncf")
    for name in names:
        exported.import_extra(name)


def _manifest(checkpoint: Checkpoint, prepared: Path | None) -> Manifest:
    usual = Path(str(checkpoint.data.get("prepared", "")))
    if prepared is None and not usual.is_dir():
        raise DataError(
            "pictures to check the export on are not there",
            file=usual,
            hint="name a prepared data set with --prepared",
        )
    manifest = load_manifest(prepared or usual, checkpoint.data.get("label_sources", {}))
    if clause := checkpoint.label_space.difference(manifest.label_space):
        raise LabelSpaceError(
            f"checkpoint and data have different classes, {clause}", file=manifest.folder
        )
    return manifest


def _evenly(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` of `samples`, evenly spaced from the first on."""
    count = min(count, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]


def _reference(checkpoint: Checkpoint, size: Size | None, precision: str) -> Predictor:
    """The torch network, which sees pictures as the exported one will."""
    inference = {**checkpoint.inference}
    if size is not None:
        inference["size"] = list(size)
    seen = dataclasses.replace(checkpoint, inference=inference)
    return Predictor.of_checkpoint(seen, device="cpu", precision=precision)


def _pictures(
    checkpoint: Checkpoint, manifest: Manifest, reference: Predictor, count: int
) -> list[Tensor]:
    """Training pictures at the size at which the network sees them: uint8 (1, 3, H, W) each."""
    splits = tuple(checkpoint.data.get("train") or ("train",))
    samples = [s for name in splits for s in manifest.splits.get(name, ())]
    if not samples:
        raise DataError(
            f"no pictures in split '{', '.join(splits)}' to calibrate int8 with",
            file=manifest.folder,
        )
    seen = (reference.size_rule.apply(read_image(s.image)) for s in _evenly(samples, count))
    return [torch.from_numpy(image).permute(2, 0, 1)[None].contiguous() for image in seen]


def _build(
    checkpoint: Checkpoint,
    building: Path,
    targets: Sequence[Target],
    size: Size | None,
    pictures: partial[list[Tensor]],
    reporter: Reporter,
) -> dict[str, Path]:
    """The files by target, in `building`; all but half precision come from one fp32 graph."""
    reporter.message(f"{checkpoint.path} to {', '.join(t.name for t in targets)}")
    built: dict[str, Path] = {}
    with reporter.progress("export", len(targets) + 1, unit="files") as progress:
        source = write_onnx(checkpoint, building / "source.onnx", TARGETS["onnx-fp32"], size)
        progress.advance()
        for target in targets:
            path = building / target.name / target.file
            if target.name == "onnx-fp32":
                files.make_folder(path.parent)
                shutil.copyfile(source, path)
            else:
                write_target(checkpoint, source, path.parent, target, size, pictures)
            built[target.name] = path
            progress.advance()
    return built


def _measure(
    predictors: dict[str, Predictor], samples: Sequence[Sample], reporter: Reporter
) -> dict[str, float]:
    images = [read_image(s.image) for s in _evenly(samples, _BENCHMARK_IMAGES)]
    return benchmark(predictors, images, reporter=reporter)


def _put(
    name: str, path: Path, folder: Path, parity: Parity, milliseconds: float | None
) -> Exported:
    """Write export.json beside the files and, if they are good, rename their folder into place."""
    members = sorted(p for p in path.parent.iterdir() if p.is_file())
    megabytes = sum(p.stat().st_size for p in members) / 2**20
    report = {
        "target": name,
        "files": {p.name: files.sha256_file(p) for p in members},
        "parity": parity.to_dict(),
        "milliseconds": milliseconds,
        "environment": describe_environment(torch.device("cpu")),
    }
    files.write_json(path.parent / exported.REPORT, report)
    if parity.failure:
        return Exported(name, None, megabytes, parity, milliseconds)
    for member in members:
        with open(member, "rb") as handle:
            os.fsync(handle.fileno())
    place = folder / name
    previous = previous_of(place)
    shutil.rmtree(previous, ignore_errors=True)
    if place.exists():
        os.replace(place, previous)
    os.replace(path.parent, place)
    files.sync_folder(folder)
    shutil.rmtree(previous, ignore_errors=True)
    return Exported(name, place / path.name, megabytes, parity, milliseconds)


@contextmanager
def _building(folder: Path) -> Iterator[Path]:
    """A folder beside the results that is gone afterwards, whatever happens."""
    for left in folder.glob(".export.tmp-*"):
        # Of a process that was killed while exporting, not of one that is at it.
        if not files.is_running(left.name.rpartition("-")[2]):
            shutil.rmtree(left, ignore_errors=True)
    building = files.make_folder(folder / f".export.tmp-{os.getpid()}")
    try:
        yield building
    except OSError as error:
        raise ExportError(f"cannot write ({error.strerror or error})", file=folder) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
