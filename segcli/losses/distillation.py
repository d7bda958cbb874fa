"""What a student learns from a teacher: a weighted set of distillation losses.

Shapes: N images, K classes, h × w pixels of the logits, C and D channels of the student's and
the teacher's features, h' × w' their cells, H × W pixels of the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcli.errors import ConfigError
from segcli.losses.distillation_features import FeatureMSE, PairwiseSimilarity, valid_cells
from segcli.losses.distillation_holistic import Adversary, HolisticLoss
from segcli.losses.distillation_logits import ChannelKL, PixelKL, wide_type
from segcli.losses.targets import CountOver, shrink_target, valid_share

__all__ = ["DEFAULT_WEIGHTS", "TERMS", "DistillationLoss"]

TERMS = ("pixel", "channel", "pairwise", "feature", "holistic")
DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType({"pixel": 1.0, "channel": 3.0})


class DistillationLoss(nn.Module):
    """A weighted sum of distillation losses, each stated per valid pixel, image or pair.

    A term of weight 0 is not computed, and draws nothing from the random generator.

    Args:
        weights: term -> weight >= 0. `pixel` (`PixelKL`), `channel` (`ChannelKL`), `pairwise`
            (`PairwiseSimilarity`), `feature` (`FeatureMSE`), `holistic` (`HolisticLoss`).
        temperature: T of `pixel` and `channel`, or one for each by name.
        ignore_index: label value that is void.
        ignore_void: leave void pixels out, where `forward` is given the target. Padding is
            always left out, by `valid`.
        grid: side of a node of `pairwise`, in pixels of the student's logits.
        student_channels, teacher_channels: C and D, wanted by `feature` where they differ.
        discriminator: wanted by `holistic`.
        adversary: `hinge` or `wgan-gp`, see `HolisticLoss`.
        class_weights: (K,) of the supervised loss, which `pixel` shares.
        count_over: where several processes share a batch, see `targets.mean_over`. `holistic`
            looks at the process's own part alone.

    Attributes:
        holistic: the `HolisticLoss`, whose `discriminator_term` the training loop minimises
            by an optimiser of its own; None without that term.

    Raises:
        ConfigError: a term of another name, a weight below 0, `holistic` without a
            discriminator.
    """

    def __init__(
        self,
        weights: Mapping[str, float] = DEFAULT_WEIGHTS,
        *,
        temperature: float | Mapping[str, float] = 4.0,
        ignore_index: int = 255,
        ignore_void: bool = False,
        grid: int = 8,
        student_channels: int | None = None,
        teacher_channels: int | None = None,
        discriminator: nn.Module | None = None,
        adversary: Adversary = "hinge",
        class_weights: Tensor | None = None,
        count_over: CountOver | None = None,
    ) -> None:
        super().__init__()
        _check(weights)
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.ignore_index = ignore_index
        self.ignore_void = ignore_void
        self.pixel = PixelKL(_temperature(temperature, "pixel"), class_weights, count_over)
        self.channel = ChannelKL(_temperature(temperature, "channel"), count_over)
        self.pairwise = PairwiseSimilarity(grid, count_over)
        self.feature: FeatureMSE | None = None
        if "feature" in self.weights:
            self.feature = FeatureMSE(student_channels, teacher_channels, count_over)
        self.holistic: HolisticLoss | None = None
        if "holistic" in self.weights:
            if discriminator is None:
                raise ConfigError("the holistic loss needs a discriminator")
            self.holistic = HolisticLoss(discriminator, adversary)

    def student_parameters(self) -> list[nn.Parameter]:
        """Parameters that train with the student: the convolution of `feature`, if any."""
        return [] if self.feature is None else list(self.feature.parameters())

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        valid: Tensor,
        student_features: Tensor | None = None,
        teacher_features: Tensor | None = None,
        images: Tensor | None = None,
        target: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Named losses; their ``total`` is what the student minimises.

        Args:
            student_logits: (N, K, h, w), any float type.
            teacher_logits: (N, K, h, w); of another size they are interpolated. No gradient
                reaches them, nor the teacher's features.
            valid: bool (N, h, w), False on padding; of another size a pixel of the logits
                counts where all that it covers is valid.
            student_features: (N, C, h', w'); without features the logits stand for them.
            teacher_features: (N, D, h'', w'').
            images: RGB (N, 3, H, W) in 0..255, for `holistic`.
            target: labels, hard (N, ...) or soft (N, K, ...), for `ignore_void`.

        Returns:
            Scalars float32: each term by its name, unweighted; ``total``, their weighted sum,
            which is a constant 0 without terms.

        Raises:
            ValueError: `holistic` without images.
        """
        valid = self.mask(valid, student_logits.shape[-2:], target)
        # Cast once: each term would do it anew.
        student = _planes(student_logits)
        with torch.no_grad():
            teacher = _planes(teacher_logits.detach())
            if teacher.shape[-2:] != student.shape[-2:]:
                size = (student.shape[-2], student.shape[-1])
                teacher = F.interpolate(teacher, size, mode="bilinear", align_corners=False)
        seen = student if student_features is None else student_features
        shown = teacher if teacher_features is None else teacher_features.detach()
        terms: dict[str, Tensor] = {}
        for name in self.weights:
            if name == "pixel":
                terms[name] = self.pixel(student, teacher, valid)
            elif name == "channel":
                terms[name] = self.channel(student, teacher, valid)
            elif name == "pairwise":
                terms[name] = self.pairwise(seen, shown, valid)
            elif name == "feature" and self.feature is not None:
                terms[name] = self.feature(seen, shown, valid)
            elif self.holistic is not None:
                if images is None:
                    raise ValueError("the holistic loss needs the images")
                terms[name] = self.holistic.student_term(student, images, valid)
        return {**terms, "total": self._sum(terms, student)}

    def mask(
        self, valid: Tensor, size: tuple[int, int] | torch.Size, target: Tensor | None
    ) -> Tensor:
        """The pixels that count, bool (N, h, w) at `size`: no padding and, by choice, no void."""
        mask = valid_cells(valid, size)
        if not self.ignore_void or target is None:
            return mask
        return mask & (valid_share(shrink_target(target, size), self.ignore_index) > 0)

    def _sum(self, terms: Mapping[str, Tensor], student: Tensor) -> Tensor:
        if not terms:
            return student.new_zeros(())
        return torch.stack([self.weights[name] * loss for name, loss in terms.items()]).sum()


def _planes(logits: Tensor) -> Tensor:
    return logits.to(wide_type(logits), memory_format=torch.contiguous_format)


def _temperature(temperature: float | Mapping[str, float], term: str) -> float:
    return temperature if isinstance(temperature, (int, float)) else temperature.get(term, 4.0)


def _check(weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if name not in TERMS:
            near = get_close_matches(name, TERMS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(TERMS)}"
            raise ConfigError(f"unknown distillation loss '{name}'", hint=hint)
        if weight < 0:
            raise ConfigError(f"the weight of '{name}' is below 0")
