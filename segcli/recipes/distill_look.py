"""Is the teacher worth it? It is scored first, on the pictures that it will teach on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segcli.data.manifest import Sample, load_manifest
from segcli.data.mixing import Extra
from segcli.errors import DataError, SegcliError
from segcli.inference.predictor import Predictor
from segcli.metrics.confusion import Scores
from segcli.recipes.distill_control import Job
from segcli.recipes.distill_data import by_key, shared
from segcli.recipes.distill_teacher import Teacher
from segcli.recipes.evaluate import evaluate_model, evenly
from segcli.recipes.training_validation import scores_of_all
from segcli.runs import find_checkpoint

# Coarse pictures on which teacher and labels are compared beforehand.
COMPARED = 50
# Val mIoU that a teacher may lose on pictures of the student's size without a word.
LOST = 0.02


class WeakTeacherError(SegcliError):
    """A teacher that is no better than the student is without it."""


def look_at(job: Job, teacher: Teacher, extra: Extra, baseline: Path | None, insist: bool) -> None:
    """Score the teacher, hold it to the student alone, and to coarse labels where there are any.

    Raises:
        WeakTeacherError: it is no better, and nobody insists.
    """
    predictor, scores, line = _teachers_scores(job, teacher)
    if baseline is None:
        job.reporter.message(
            f"{line} (no baseline is known; --control or --baseline RUN gives one)"
        )
    else:
        student = Predictor.from_checkpoint(find_checkpoint(baseline), device=str(job.device))
        alone = _score(job, student, job.val, "student alone")
        job.reporter.message(f"{line}, the student alone {alone.miou:.4f}")
        if not scores.miou > alone.miou:
            _weak(job, teacher, scores.miou, alone.miou, insist)
    if extra.coarse:
        _hold_to_coarse(job, predictor, extra)


def _teachers_scores(job: Job, teacher: Teacher) -> tuple[Predictor, Scores, str]:
    """As it will be asked: at the size of the student's pictures, not at its own.

    Returns:
        What predicts so, its scores, and a line that says them.
    """
    usual = teacher.predictor(job.device)
    own = _score(job, usual, job.val, "teacher")
    line = f"teacher: val mIoU {own.miou:.4f}"
    largest = max((s.size for s in job.val), key=lambda size: size[0] * size[1])
    asked = job.config.eval.size or largest
    # An exported file may take pictures of one size alone.
    if getattr(teacher.model, "size", None) is not None or usual.size_rule.target(largest) == tuple(
        asked
    ):
        return usual, own, line
    predictor = teacher.predictor(job.device, size=job.config.eval.size, own_size=False)
    scores = _score(job, predictor, job.val, "teacher, at the student's size")
    if (lost := own.miou - scores.miou) > LOST:
        job.reporter.warning(
            f"the teacher loses {100 * lost:.1f} points of val mIoU on pictures of the student's "
            f"size, {asked[1]}×{asked[0]}, on which it has to teach: train one on such pictures, "
            "or the student on pictures of the teacher's size (train.stages.0.resize, eval.size)"
        )
    return predictor, scores, f"{line}, on pictures of the student's size {scores.miou:.4f}"


def _weak(job: Job, teacher: Teacher, teachers: float, alone: float, insist: bool) -> None:
    what = f"the teacher's val mIoU {teachers:.4f} is no better than the student's own {alone:.4f}"
    if not insist:
        raise WeakTeacherError(what, file=teacher.path, hint="--insist goes on all the same")
    job.reporter.warning(what)


def _hold_to_coarse(job: Job, predictor: Predictor, extra: Extra) -> None:
    """Say where teacher and coarse labels agree: a class they do not share wants a look."""
    samples = evenly(extra.samples[: extra.coarse], COMPARED)
    scores = _score(job, predictor, samples, "teacher on coarse labels")
    job.reporter.message(
        f"teacher and coarse labels agree on {100 * scores.pixel_accuracy:.1f} % of the labelled "
        f"pixels of {len(samples)} pictures"
    )
    rows = [
        [name, f"{100 * share:.1f} %"]
        for name, share in zip(scores.class_names, scores.class_accuracy, strict=True)
        if share == share  # classes that occur
    ]
    title = "Of the pixels that coarse labels give to a class, the teacher gives it to"
    job.reporter.table(title, ["class", "share"], rows)


def _score(job: Job, predictor: Predictor, samples: Sequence[Sample], title: str) -> Scores:
    """Of all processes together."""
    evaluation = evaluate_model(
        predictor,
        job.world.share(list(samples)),
        job.manifest.label_space,
        batch_size=job.config.eval.batch_size,
        reporter=job.reporter,
        title=title,
    )
    return scores_of_all(evaluation, job.manifest.label_space, job.world, job.device)


def warn_of_shared(job: Job, teacher: Teacher, extra: Extra) -> None:
    """Say where validation pictures are trained on: as extra ones, or by the teacher before."""
    kinds = {
        "data.train holds": [s for n in job.config.data.train for s in job.manifest.split(n)],
        **by_key(extra),
        "the teacher was trained on": _pictures_of(teacher),
    }
    for line in shared(kinds, job.val):
        job.reporter.warning(f"{line}: scores will be too high")


def _pictures_of(teacher: Teacher) -> list[Sample]:
    """What a teacher was trained on; nothing where that is not known, or no longer there."""
    data = teacher.checkpoint.data
    try:
        manifest = load_manifest(str(data["prepared"]), data.get("label_sources", {}))
        return [s for name in data.get("train", ()) for s in manifest.split(name)]
    except (DataError, KeyError):
        return []
