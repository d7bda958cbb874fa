"""`segcli eval` of a run: one pass over the images, then what was asked for beside it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segcli.errors import OutputError
from segcli.inference.predictor import Predictor
from segcli.metrics.confusion import scores
from segcli.parallel import map_ahead
from segcli.recipes.evaluate import Evaluation, Predicted, predict_samples
from segcli.recipes.evaluate_measures import Measures, Part
from segcli.recipes.evaluate_output import PanelWriter, evenly, report_result, write_results
from segcli.recipes.evaluate_setup import Extras, Job, set_up
from segcli.recipes.evaluate_submission import Submission
from segcli.reporting.events import NullReporter, Reporter
from segcli.temperature import store_temperature


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
    """Evaluate a checkpoint and write what docs/evaluation.md lists.

    Args:
        run_or_checkpoint: an exported file too; None takes the newest run's best.
        prepared: a prepared data set; None takes the one the run was validated on.
        splits: evaluated as one; None takes those the run was validated on.
        out: None takes ``RUN/eval/<splits>``, and what was measured otherwise a longer name.
        pictures: panels to write, evenly spaced over the samples; None as in the config.
        limit: evaluate no more than this many, evenly spaced.
        batch_size: images predicted together; None as in the config.

    Returns:
        What scores.json holds, and the folder it lies in.

    Raises:
        CheckpointError, DataError, LabelSpaceError, OutputError, UsageError.
    """
    reporter, extras = reporter or NullReporter(), extras or Extras()
    job = set_up(run_or_checkpoint, prepared, splits, out, limit, extras, reporter, precision)
    usual = job.checkpoint.training.get("eval", {})
    batch_size = batch_size or int(usual.get("batch_size", 4))
    pictures = int(usual.get("pictures", 8)) if pictures is None else pictures
    predictor = Predictor.of_checkpoint(
        job.checkpoint, device=device, precision=precision, tta=extras.tta
    )
    measures = _measure_all(job, predictor, batch_size, pictures, reporter)
    matrix = measures.matrix.matrix
    evaluation = Evaluation(scores(matrix, measures.space), matrix, len(job.samples))
    result = _describe(job, predictor) | evaluation.to_dict() | measures.to_dict()
    result |= {"tta": None, "stress": None}
    report_result(reporter, result, evaluation.scores, "+".join(job.splits))
    # What is known is on disk before the audits, which take many times as long, begin.
    write_results(job.folder, result, measures, official=extras.official_json)
    _store_temperature(job, result, reporter)
    if extras.tta is not None or extras.stress:
        result |= _audits(job, predictor, reporter)
        write_results(job.folder, result, measures, official=extras.official_json)
    # A page of an earlier evaluation would stand beside scores that are not its own.
    shutil.rmtree(job.folder / "report", ignore_errors=True)
    if extras.report:
        _report(job.folder, result, measures, predictor, reporter)
    reporter.message(f"scores, confusion matrix and pictures: {job.folder}")
    return result, job.folder


def _describe(job: Job, predictor: Predictor) -> dict[str, Any]:
    """What was evaluated, and how."""
    return {
        "checkpoint": str(job.checkpoint.path),
        "step": job.checkpoint.step,
        "prepared": str(job.manifest.folder),
        "splits": list(job.splits),
        "label_space": job.checkpoint.label_space.name,
        "precision": predictor.precision,
        "views": [view.name for view in predictor.views],
    }


def _measure_all(
    job: Job, predictor: Predictor, batch_size: int, pictures: int, reporter: Reporter
) -> Measures:
    """Predict every image, and measure it in threads while the next one is predicted."""
    space, samples, extras = predictor.label_space, job.plain_samples, job.extras
    measures = Measures(
        space,
        len(samples),
        truths=job.truths,
        boundary=extras.boundary,
        sure=extras.calibration,
    )
    panels = PanelWriter(job.folder / "pictures", evenly(samples, pictures), space)
    submission = None if extras.submission is None else Submission(extras.submission, space)

    def measure(one: Predicted) -> tuple[Predicted, Part]:
        split, sample = job.samples[one.index]
        sure = None if one.sureness is None else one.sureness.confidence
        if submission is not None:
            submission.write(sample.id, one.prediction)
        return one, measures.measure(split, sample, one.item.truth, one.prediction, sure)

    calibration = measures.calibration
    places = None if calibration is None else calibration.positions
    predictions = predict_samples(predictor, samples, batch_size=batch_size, places=places)
    with reporter.progress("eval", len(samples), unit="images") as progress:
        for one, part in map_ahead(measure, predictions):
            split, sample = job.samples[one.index]
            measures.add(split, sample.id, (sample.image, sample.label), part)
            if calibration is not None and one.sureness is not None:
                own = one.item.truth.ravel()[one.sureness.places]
                calibration.sample(one.index, one.sureness.logits, own)
            panels(one.item, one.prediction)
            progress.advance()
    panels.done()
    if submission is not None:
        resized = ", resized to 2048x1024" if submission.resized else ""
        reporter.message(f"submission{resized}: {submission.folder}")
    return measures


def _audits(job: Job, predictor: Predictor, reporter: Reporter) -> dict[str, Any]:
    """The sections ``tta`` and ``stress`` of scores.json that were asked for."""
    found: dict[str, Any] = {}
    if job.extras.tta is not None:
        from segcli.recipes.tta_audit import tta_audit

        found["tta"] = tta_audit(predictor, job.plain_samples, job.extras.tta, reporter)
    if job.extras.stress:
        from segcli.recipes.stress import stress_audit

        found["stress"] = stress_audit(
            predictor, job.plain_samples, reporter=reporter, training=job.checkpoint.training
        )
    return found


def _store_temperature(job: Job, result: Mapping[str, Any], reporter: Reporter) -> None:
    """Leave the temperature with the checkpoint, if it was fitted on data kept out of training."""
    found = (result["calibration"] or {}).get("temperature")
    trained_on = set(job.checkpoint.data.get("train") or ())
    exported = job.checkpoint.path.is_file()
    if found is None or job.otherwise or exported or trained_on & set(job.splits):
        return
    about = {name: result[name] for name in ("prepared", "splits", "images", "precision")}
    try:
        store_temperature(job.checkpoint.path, float(found), about)
    except OutputError as error:
        reporter.warning(f"the temperature is not kept with the checkpoint: {error}")


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
