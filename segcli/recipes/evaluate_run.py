"""`segcli eval` of a run: one pass over the images, then what was asked for beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segcli import files
from segcli.checkpoint import Checkpoint, load_checkpoint
from segcli.data.cityscapes_truth import Truth, find_truths
from segcli.data.manifest import Manifest, Sample, load_manifest
from segcli.errors import DataError, LabelSpaceError, OutputError, UsageError
from segcli.inference.predictor import Predictor
from segcli.inference.tta import TTA
from segcli.metrics.confusion import scores
from segcli.metrics.official import label_id_lut
from segcli.parallel import map_ahead
from segcli.recipes.evaluate import Evaluation, Predicted, predict_samples
from segcli.recipes.evaluate_measures import Measures, Part
from segcli.recipes.evaluate_output import PanelWriter, evenly, report_result, write_results
from segcli.recipes.evaluate_submission import Submission
from segcli.reporting.events import NullReporter, Reporter
from segcli.runs import find_checkpoint, is_best, run_folder
from segcli.temperature import store_temperature

# A sample and the split it comes from.
Labelled = tuple[str, Sample]


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


def evaluate_run(
    run_or_checkpoint: Path | None = None,
    *,
    prepared: Path | None = None,
    splits: Sequence[str] | None = None,
    out: Path | None = None,
    pictures: int | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    extras: Extras | None = None,
    reporter: Reporter | None = None,
) -> tuple[dict[str, Any], Path]:
    """Evaluate a checkpoint and write scores.json, images.json, confusion.png and pictures.

    Args:
        run_or_checkpoint: None takes the newest run's best.
        prepared: a prepared data set; None takes the one the run was validated on.
        splits: evaluated as one; None takes those the run was validated on.
        out: None takes ``RUN/eval/<splits>``.
        pictures: panels to write, evenly spaced over the samples; None as in the config.
        limit: evaluate no more than this many, evenly spaced.
        batch_size: images predicted together; None as in the config.

    Returns:
        What scores.json holds, and the folder it lies in.

    Raises:
        CheckpointError, DataError, LabelSpaceError, OutputError, UsageError.
    """
    reporter, extras = reporter or NullReporter(), extras or Extras()
    checkpoint = load_checkpoint(find_checkpoint(run_or_checkpoint), warn=reporter.warning)
    usual = checkpoint.training.get("eval", {})
    batch_size = batch_size or int(usual.get("batch_size", 4))
    pictures = int(usual.get("pictures", 8)) if pictures is None else pictures
    splits = tuple(dict.fromkeys(splits or checkpoint.data.get("val") or ("val",)))
    manifest = _manifest(checkpoint, prepared)
    if prepared is None and manifest.fingerprint() != checkpoint.data.get("fingerprint"):
        reporter.warning(f"{manifest.folder} has changed since this run was trained on it")
    samples = evenly([(name, s) for name in splits for s in manifest.split(name)], limit)
    truths = _truths(manifest, splits, reporter)
    if extras.official_json and truths is None:
        raise UsageError("no official scores without Cityscapes' labels and instances")
    folder = files.make_folder(out or _folder(checkpoint, splits, extras))
    reporter.message(f"{checkpoint.path} on {len(samples)} images of {'+'.join(splits)}")
    predictor = Predictor.of_checkpoint(
        checkpoint, device=device, precision=precision, tta=extras.tta
    )
    measures = Measures(
        checkpoint.label_space,
        len(samples),
        truths=truths,
        boundary=extras.boundary,
        sure=extras.calibration,
    )
    evaluation = _Evaluation(predictor, samples, measures, folder, extras, reporter)
    evaluation.run(batch_size, pictures)
    result = {
        "checkpoint": str(checkpoint.path),
        "step": checkpoint.step,
        "prepared": str(manifest.folder),
        "splits": list(splits),
        "label_space": checkpoint.label_space.name,
        "precision": predictor.precision,
        "views": [view.name for view in predictor.views],
        **evaluation.result(checkpoint),
    }
    write_results(folder, result, measures, official=extras.official_json)
    report_result(reporter, result, evaluation.outcome().scores, f"{'+'.join(splits)}")
    _store_temperature(checkpoint, result, limit, reporter)
    if extras.report:
        _report(folder, result, measures, predictor, reporter)
    reporter.message(f"scores, confusion matrix and pictures: {folder}")
    return result, folder


class _Evaluation:
    """The pass over the images, and the audits that predict them again."""

    def __init__(
        self,
        predictor: Predictor,
        samples: Sequence[Labelled],
        measures: Measures,
        folder: Path,
        extras: Extras,
        reporter: Reporter,
    ) -> None:
        self.predictor, self.samples, self.measures = predictor, samples, measures
        self.folder, self.extras, self.reporter = folder, extras, reporter
        space = predictor.label_space
        wanted = extras.submission
        self.submission = None if wanted is None else Submission(wanted, space)

    def run(self, batch_size: int, pictures: int) -> None:
        """Predict every image and measure it, in threads, while the next one is predicted."""
        plain = [sample for _, sample in self.samples]
        chosen = evenly(plain, pictures)
        panels = PanelWriter(self.folder / "pictures", chosen, self.predictor.label_space)
        calibration = self.measures.calibration
        predictions = predict_samples(
            self.predictor,
            plain,
            batch_size=batch_size,
            places=calibration.positions if calibration is not None else None,
        )
        with self.reporter.progress("eval", len(plain), unit="images") as progress:
            for one, part in map_ahead(self._measure, predictions):
                split, sample = self.samples[one.index]
                self.measures.add(split, sample.id, (sample.image, sample.label), part)
                sure = one.sureness
                if calibration is not None and sure is not None:
                    own = one.item.truth.ravel()[sure.places]
                    calibration.sample(one.index, sure.logits, own)
                panels(one.item, one.prediction)
                progress.advance()
        if self.submission is not None:
            if self.submission.resized:
                self.reporter.warning("the images are not 2048x1024: submission resized")
            self.reporter.message(f"submission: {self.submission.folder}")

    def _measure(self, one: Predicted) -> tuple[Predicted, Part]:
        split, sample = self.samples[one.index]
        sure = None if one.sureness is None else one.sureness.confidence
        if self.submission is not None:
            self.submission.write(sample.id, one.prediction)
        return one, self.measures.measure(split, sample, one.item.truth, one.prediction, sure)

    def outcome(self) -> Evaluation:
        """The scores of the pass."""
        matrix = self.measures.matrix.matrix
        return Evaluation(scores(matrix, self.measures.space), matrix, len(self.samples))

    def result(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """What scores.json holds of the pass, and of the audits where they were asked for."""
        plain = [sample for _, sample in self.samples]
        tta = stress = None
        if self.extras.tta is not None:
            from segcli.recipes.tta_audit import tta_audit

            bare = self.predictor.with_tta(None)
            tta = tta_audit(bare, plain, self.extras.tta, reporter=self.reporter)
        if self.extras.stress:
            from segcli.recipes.stress import stress_audit

            stress = stress_audit(
                self.predictor, plain, reporter=self.reporter, training=checkpoint.training
            )
        return {
            **self.outcome().to_dict(),
            **self.measures.to_dict(),
            "tta": tta,
            "stress": stress,
        }


def _truths(
    manifest: Manifest, splits: Sequence[str], reporter: Reporter
) -> Mapping[tuple[str, str], Truth] | None:
    """The official truth of every image by (split, id); None where there is not one of each."""
    if manifest.layout != "cityscapes" or label_id_lut(manifest.label_space) is None:
        return None
    try:
        found = {(t.split, t.id): t for name in splits for t in find_truths(manifest.source, name)}
    except DataError as error:
        reporter.warning(f"no instance scores: {error}")
        return None
    for name in splits:
        for sample in manifest.split(name):
            if (truth := found.get((name, sample.id))) is None or truth.instances is None:
                reporter.warning(f"no instance scores: '{sample.id}' has no instance ids")
                return None
    return found


def _folder(checkpoint: Checkpoint, splits: Sequence[str], extras: Extras) -> Path:
    name = "+".join(splits) + ("" if is_best(checkpoint.path) else "-last")
    return run_folder(checkpoint.path) / "eval" / (name + ("-tta" if extras.tta else ""))


def _manifest(checkpoint: Checkpoint, prepared: Path | None) -> Manifest:
    """The data to evaluate on, which has to mean the same classes as the checkpoint."""
    usual = Path(str(checkpoint.data.get("prepared", "")))
    if prepared is None and not usual.is_dir():
        raise DataError(
            "the data this run was validated on is not there",
            file=usual,
            hint="say where with --prepared",
        )
    manifest = load_manifest(prepared or usual)
    if clause := checkpoint.label_space.difference(manifest.label_space):
        raise LabelSpaceError(
            f"checkpoint and data have different classes, {clause}",
            file=manifest.folder,
            hint="prepare the data for the checkpoint's label space",
        )
    return manifest


def _store_temperature(
    checkpoint: Checkpoint, result: Mapping[str, Any], limit: int | None, reporter: Reporter
) -> None:
    """Leave the temperature with the checkpoint, if it was fitted on data kept out of training."""
    found = (result["calibration"] or {}).get("temperature")
    seen = set(result["splits"]) & set(checkpoint.data.get("train") or ())
    if found is None or limit is not None or len(result["views"]) > 1 or seen:
        return
    about = {name: result[name] for name in ("prepared", "splits", "images", "precision")}
    try:
        store_temperature(checkpoint.path, float(found), about)
    except OutputError as error:
        reporter.warning(f"temperature not kept with the checkpoint: {error}")


def _report(
    folder: Path,
    result: Mapping[str, Any],
    measures: Measures,
    predictor: Predictor,
    reporter: Reporter,
) -> None:
    from segcli.recipes.report import report_evaluation, shown_by

    page = report_evaluation(
        folder / "report",
        result,
        measures.images,
        measures.space,
        shown_by(predictor),
        reporter=reporter,
    )
    reporter.message(f"report: {page}")
