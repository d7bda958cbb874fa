"""The distillation losses: their invariants, one by one, and the mutants that break them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from segcli.losses import distillation_features, distillation_holistic, distillation_logits

sys.path.insert(0, str(Path(__file__).parent))
from distillation_checks import CHECKS

MODULES: dict[str, ModuleType] = {
    "logits": distillation_logits,
    "features": distillation_features,
    "holistic": distillation_holistic,
}
LOSSES = ("PixelKL", "ChannelKL", "PairwiseSimilarity", "FeatureMSE", "HolisticLoss")


def losses(changed: dict[str, object] | None = None) -> SimpleNamespace:
    """The losses by name; of the module in `changed` those instead."""
    found = {k: v for module in MODULES.values() for k, v in vars(module).items() if k in LOSSES}
    found.update({k: v for k, v in (changed or {}).items() if k in LOSSES})
    return SimpleNamespace(**found)


@pytest.mark.parametrize("name", CHECKS)
def test_losses(name: str) -> None:
    CHECKS[name](losses())


# Of each mutant: its module, the line as it is, as it becomes, and the check that finds it.
MUTANTS = {
    "pixel softmax transposed": (
        "logits",
        "F.log_softmax(tempered(s_i, t), dim=1)",
        "F.log_softmax(tempered(s_i, t), dim=2)",
        "pixel_ignores_shifts_per_pixel",
    ),
    "both pixel softmaxes over the rows": (
        "logits",
        "(tempered(s_i, t), dim=1)\n                log_t = F.log_softmax(tempered(t_i, t), dim=1)",
        "(tempered(s_i, t), dim=2)\n                log_t = F.log_softmax(tempered(t_i, t), dim=2)",
        "pixels_may_be_permuted_jointly",
    ),
    "channel softmax transposed": (
        "logits",
        "_rows(s_i), alpha=1 / t), dim=2)",
        "_rows(s_i), alpha=1 / t), dim=1)",
        "channel_ignores_shifts_per_channel",
    ),
    "pixel without mask": (
        "logits",
        "self._weight(p_t, t_i) * keep",
        "self._weight(p_t, t_i) * torch.ones_like(keep)",
        "masked_pixels_change_nothing",
    ),
    "classes weighed by tempered probabilities": (
        "logits",
        "if self.temperature != 1:",
        "if False:",
        "pixel_weighs_classes_as_the_teacher_sees_them",
    ),
    "weights not counted": (
        "logits",
        "count += weight.sum()",
        "count += keep.sum()",
        "pixel_weighs_classes_as_the_teacher_sees_them",
    ),
    "channel without mask": (
        "logits",
        "nowhere.masked_fill_(~valid, _NOWHERE)",
        "nowhere",
        "masked_pixels_change_nothing",
    ),
    "channel mask of 0 for nowhere": (
        "logits",
        "_NOWHERE = -1e30",
        "_NOWHERE = -1.0",
        "padding_changes_nothing",
    ),
    "nodes without mask": (
        "features",
        ".mul_(keep[:, None])",
        "",
        "masked_pixels_change_nothing",
    ),
    "node slope without mask": (
        "features",
        "columns)).mul_(keep)",
        "columns))",
        "masked_pixels_change_nothing",
    ),
    "empty nodes compared": (
        "features",
        "alive = keep[:, :, None] & (square > 1e-24)",
        "alive = square > -1",
        "without_valid_pixels_all_is_zero",
    ),
    "length detached": (
        "features",
        "torch.where(alive, square, 1).rsqrt()",
        "torch.where(alive, square, 1).rsqrt().detach()",
        "pairwise_ignores_positive_scaling",
    ),
    "deviation detached": (
        "features",
        "pull = by_s * (1 - (a - r))",
        "pull = by_s",
        "slopes_are_those_of_the_values",
    ),
    "length left out": (
        "features",
        "vectors * torch.where(alive, square, 1).rsqrt() * alive",
        "vectors * alive",
        "pairwise_is_its_definition",
    ),
    "standardised over masked cells": (
        "features",
        "(part.to(mean.dtype) - mean).mul_(keep)",
        "part.to(mean.dtype) - mean",
        "padding_changes_nothing",
    ),
    "pixel summed over the batch": (
        "logits",
        "count, self.count_over",
        "count / len(valid), self.count_over",
        "a_duplicated_batch_changes_nothing",
    ),
    "channel summed over the batch": (
        "logits",
        "mean_over(one, images,",
        "mean_over(one, one,",
        "a_duplicated_batch_changes_nothing",
    ),
    "pairs summed over the batch": (
        "features",
        "mean_over(1 / pairs, images,",
        "mean_over(1 / pairs, images.clamp(max=1),",
        "a_duplicated_batch_changes_nothing",
    ),
    "features summed over the batch": (
        "features",
        "mean_over(half, keep.sum(),",
        "mean_over(half, keep[0].sum(),",
        "a_duplicated_batch_changes_nothing",
    ),
    "pixel without T squared": (
        "logits",
        "attach(student, value * t, slope)",
        "attach(student, value / t, slope)",
        "a_high_temperature_matches_logits",
    ),
    "slope of another temperature": (
        "logits",
        "t * scale, out=slope_i.flatten(2)",
        "t * t * scale, out=slope_i.flatten(2)",
        "slopes_are_those_of_the_values",
    ),
    "half the slope of the pairs": (
        "features",
        "(4 * scale[i])",
        "(2 * scale[i])",
        "slopes_are_those_of_the_values",
    ),
    "divergence the other way round": (
        "logits",
        "value += log_t.sub_(log_s).mul_(p_t).sum()",
        "value += log_s.sub(log_t).mul_(log_s.exp()).sum()",
        "slopes_are_those_of_the_values",
    ),
    "discriminator not held": (
        "holistic",
        ", _held(self.discriminator):",
        ":",
        "a_student_step_leaves_the_discriminator",
    ),
    "spectral norm moves in the student's step": (
        "holistic",
        "requires_grad_(False).eval()",
        "requires_grad_(False)",
        "a_student_step_leaves_the_discriminator",
    ),
    "student not detached": (
        "holistic",
        "_maps(student.detach(), valid)",
        "_maps(student, valid)",
        "a_discriminator_step_leaves_the_student",
    ),
    "maps without mask": (
        "holistic",
        "torch.softmax(wide, dim=1) * valid[:, None]",
        "torch.softmax(logits, dim=1)",
        "the_discriminator_sees_no_masked_pixel",
    ),
    "image without mask": (
        "holistic",
        "small.masked_fill(~valid[:, None], 0)",
        "small",
        "the_discriminator_sees_no_masked_pixel",
    ),
    "root at zero": (
        "holistic",
        "(slope.flatten(1).square().sum(1) + 1e-12).sqrt()",
        "slope.flatten(1).square().sum(1).sqrt()",
        "the_penalty_is_finite_without_a_slope",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_found(name: str) -> None:
    module, line, mutant, check = MUTANTS[name]
    path = Path(str(MODULES[module].__file__))
    source = path.read_text(encoding="utf-8")
    assert source.count(line) == 1, "the line that the mutant changes is no longer there"
    changed: dict[str, object] = {"__name__": f"mutant_of_{module}"}
    exec(compile(source.replace(line, mutant), str(path), "exec"), changed)
    with pytest.raises(AssertionError):
        CHECKS[check](losses(changed))  # `test_losses` shows that the real ones pass it
