"""What `segcli eval` evaluates: checkpoint, images, their official truth, where results go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segcli import files
from segcli.checkpoint import Checkpoint, load_checkpoint
from segcli.data.cityscapes_truth import Truth, find_truths
from segcli.data.manifest import Manifest, Sample, load_manifest
from segcli.errors import DataError, LabelSpaceError, UsageError
from segcli.exported import is_exported
from segcli.inference.tta import TTA
from segcli.metrics.official import label_id_lut
from segcli.recipes.evaluate_output import evenly
from segcli.reporting.events import Reporter
from segcli.runs import EXPORT, find_checkpoint, is_best, run_folder


@dataclass(frozen=True)
class Extras:
    """What `segcli eval` does beside the scores.

    Attributes:
        boundary: boundary scores.
        calibration: reliability and temperature.
        report: write ``report/index.html``.
        tta: views to average for every score, and to audit one by one.
        stress: score in rain, snow, fog, ...
        submission: folder for the PNGs of the Cityscapes server.
        official_json: write ``official.json``.
    """

    boundary: bool = True
    calibration: bool = True
    report: bool = True
    tta: TTA | None = None
    stress: bool = False
    submission: Path | None = None
    official_json: bool = False


@dataclass(frozen=True)
class Job:
    """An evaluation to do.

    Attributes:
        samples: (split, sample), in the order of evaluation.
        otherwise: what is not as in a full evaluation of the run: the name of other data, the
            number of images where that is not all of them, another precision, ``tta``.
        truths: official truth by (split, id); None where there is not one for each image.
        folder: for the results.
    """

    checkpoint: Checkpoint
    manifest: Manifest
    splits: tuple[str, ...]
    samples: Sequence[tuple[str, Sample]]
    otherwise: tuple[str, ...]
    truths: Mapping[tuple[str, str], Truth] | None
    folder: Path
    extras: Extras

    @property
    def plain_samples(self) -> list[Sample]:
        """The samples without their splits."""
        return [sample for _, sample in self.samples]


def set_up(
    run_or_checkpoint: Path | None,
    prepared: Path | None,
    splits: Sequence[str] | None,
    out: Path | None,
    limit: int | None,
    extras: Extras,
    reporter: Reporter,
    precision: str | None = None,
) -> Job:
    """Resolve what a user gave or left out; see `evaluate_run`.

    Raises:
        CheckpointError, DataError, LabelSpaceError, OutputError, UsageError.
    """
    checkpoint = load_checkpoint(find_checkpoint(run_or_checkpoint), warn=reporter.warning)
    splits = tuple(dict.fromkeys(splits or checkpoint.data.get("val") or ("val",)))
    manifest = _manifest(checkpoint, prepared)
    other = manifest.fingerprint() != checkpoint.data.get("fingerprint")
    if prepared is None and other:
        reporter.warning(f"{manifest.folder} has changed since this run was trained on it")
    samples = [(name, s) for name in splits for s in manifest.split(name)]
    truths = _truths(manifest, samples, reporter)
    if extras.official_json and truths is None:
        raise UsageError("no official scores without Cityscapes' labels and instances")
    chosen = evenly(samples, limit)
    named = prepared is not None and "fingerprint" in checkpoint.data
    otherwise = (
        manifest.folder.name if named and other else None,
        str(len(chosen)) if len(chosen) < len(samples) else None,
        _other_precision(checkpoint, precision),
        "tta" if extras.tta else None,
    )
    known = tuple(part for part in otherwise if part is not None)
    folder = files.make_folder(out or _folder(checkpoint.path, splits, known))
    reporter.message(f"{checkpoint.path} on {len(chosen)} images of {'+'.join(splits)}")
    return Job(checkpoint, manifest, splits, chosen, known, truths, folder, extras)


def _folder(checkpoint: Path, splits: Sequence[str], otherwise: Sequence[str]) -> Path:
    """Where results go: what was measured otherwise never takes the place of a full evaluation."""
    run, name = run_folder(checkpoint), "+".join(splits)
    if is_exported(checkpoint):
        # Not beside the file: another export takes the place of its folder.
        name, run = f"{name}-{run.name}", run.parent
        run = run.parent if run.name == EXPORT else run
    elif not is_best(checkpoint):
        name += "-last"
    return run / "eval" / "-".join([name, *otherwise])


def _other_precision(checkpoint: Checkpoint, asked: str | None) -> str | None:
    """What was asked for, where it is not the run's own; an exported file has but its own."""
    own = asked == checkpoint.inference.get("precision", "fp32")
    return None if own or is_exported(checkpoint.path) else asked


def _manifest(checkpoint: Checkpoint, prepared: Path | None) -> Manifest:
    """The data to evaluate on, which has to mean the same classes as the checkpoint."""
    usual = Path(str(checkpoint.data.get("prepared", "")))
    if prepared is None and not usual.is_dir():
        raise DataError(
            "the data this run was validated on is not there",
            file=usual,
            hint="say where with --prepared",
        )
    manifest = load_manifest(prepared or usual, checkpoint.data.get("label_sources", {}))
    if clause := checkpoint.label_space.difference(manifest.label_space):
        raise LabelSpaceError(
            f"checkpoint and data have different classes, {clause}",
            file=manifest.folder,
            hint="prepare the data for the checkpoint's label space",
        )
    return manifest


def _truths(
    manifest: Manifest, samples: Sequence[tuple[str, Sample]], reporter: Reporter
) -> Mapping[tuple[str, str], Truth] | None:
    if manifest.layout != "cityscapes" or label_id_lut(manifest.label_space) is None:
        return None
    splits = dict.fromkeys(name for name, _ in samples)
    try:
        found = {(t.split, t.id): t for name in splits for t in find_truths(manifest.source, name)}
    except DataError as error:
        reporter.warning(f"no instance scores: {error}")
        return None
    for name, sample in samples:
        if (truth := found.get((name, sample.id))) is None or truth.instances is None:
            reporter.warning(f"no instance scores: '{sample.id}' has no instance ids")
            return None
    return found
