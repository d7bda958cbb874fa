"""Validation while training: the averaged weights on the validation splits, by all processes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from segcli import distributed
from segcli.distributed import World
from segcli.labels import LabelSpace
from segcli.metrics.confusion import ConfusionMatrix, Scores
from segcli.metrics.confusion import scores as scores_of
from segcli.recipes.evaluate import Evaluation, Loaded, evaluate_model, evenly
from segcli.recipes.training import Training, validation_predictor, validation_samples
from segcli.recipes.training_guard import StopRequest
from segcli.reporting.render import comparison

# Validation panels that TensorBoard keeps.
PICTURES = 3


class StopValidation(Exception):  # noqa: N818 (a way out, not an error)
    """A signal came while validating."""


def validate(run: Training, stop: StopRequest | None = None) -> Scores:
    """Score the averaged weights on the validation splits, at the labels' own resolution.

    Every process takes its share of the images; the scores are those of all of them.

    Panels of the first pictures go to the reporter, for TensorBoard to leaf through.
    """
    distributed.buffers_from_main(run.world, run.average.model)
    samples = validation_samples(run)
    shown = {s.label for s in evenly(samples, PICTURES)}

    def show(item: Loaded, prediction: NDArray[np.uint8]) -> None:
        if stop is not None and stop.asked and run.world.size == 1:
            raise StopValidation
        if item.sample.label in shown:
            panel = comparison(item.image, item.truth, prediction, run.label_space)
            run.reporter.image(f"val/{item.sample.id}", panel, run.step)

    evaluation = evaluate_model(
        validation_predictor(run),
        run.world.share(samples),
        batch_size=run.config.eval.batch_size,
        on_prediction=show,
    )
    return scores_of_all(evaluation, run.label_space, run.world, run.device)


def scores_of_all(
    evaluation: Evaluation, space: LabelSpace, world: World, device: torch.device
) -> Scores:
    """The scores over the images of all processes, each of which has evaluated its share."""
    matrix = torch.from_numpy(evaluation.matrix.copy()).to(device)
    distributed.add_up(world, matrix)
    whole = ConfusionMatrix(space.num_classes, space.ignore_index)
    whole.matrix += matrix.cpu().numpy()
    return scores_of(whole, space)


def logged_scores(scores: Scores) -> dict[str, float]:
    """Scores by the names under which they are logged; nan for a class that does not occur."""
    return {
        "val/miou": scores.miou,
        "val/category_miou": scores.category_miou,
        "val/pixel_accuracy": scores.pixel_accuracy,
        **{
            f"val_iou/{name}": iou
            for name, iou in zip(scores.class_names, scores.class_iou, strict=True)
        },
    }
