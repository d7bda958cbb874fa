"""Holistic distillation: a critic that tells the student's maps from the teacher's.

Shapes: N images, K classes, h × w pixels of the logits, H × W of the images. `valid` is bool
(N, h, w); elsewhere maps and images are 0 for both sides, so the critic sees no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcli.losses.distillation_logits import wide_type

Adversary = Literal["hinge", "wgan-gp"]


class HolisticLoss(nn.Module):
    """Both sides of the adversarial game of arXiv 1903.04197, section 3.3.

    The critic sees the softmax of the logits, not the logits: their scale alone would give
    the teacher away. Each term leaves the other side untouched: the discriminator term
    detaches the student, the student term holds the discriminator, the state of its spectral
    norm included. The student's loss is minus the critic's score, which has no meaning by
    its value.

    Args:
        discriminator: called with maps (N, K, h, w) and images (N, 3, h, w), gives (N,); see
            `models.discriminator.Discriminator`. It is to have an optimiser of its own.
        adversary: `hinge` (arXiv 1705.02894), stable; or `wgan-gp` (arXiv 1704.00028).
        penalty: weight of the gradient penalty of `wgan-gp`.
    """

    def __init__(
        self, discriminator: nn.Module, adversary: Adversary = "hinge", penalty: float = 10.0
    ) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.adversary = adversary
        self.penalty = penalty

    def student_term(self, student: Tensor, images: Tensor, valid: Tensor) -> Tensor:
        """What the student minimises: minus the mean score of its maps.

        Args:
            student: logits (N, K, h, w).
            images: RGB (N, 3, H, W) in 0..255, uint8 or float.

        Returns:
            Scalar float32; 0 with zero gradient where no pixel is valid.
        """
        with torch.autocast(student.device.type, enabled=False), _held(self.discriminator):
            score = self.discriminator(_maps(student, valid), _condition(images, valid))
            return -_image_mean(score, valid)

    def discriminator_term(
        self, student: Tensor, teacher: Tensor, images: Tensor, valid: Tensor
    ) -> dict[str, Tensor]:
        """What the discriminator minimises, and how it fares.

        Args:
            student, teacher: logits (N, K, h, w); no gradient reaches either.
            images: RGB (N, 3, H, W) in 0..255, uint8 or float.

        Returns:
            Scalars float32: ``total``, to be minimised; without gradient ``teacher`` and
            ``student``, mean scores; ``accuracy``, the share of images where the teacher
            scores above the student; with `wgan-gp` also ``penalty``, unweighted.
        """
        with torch.autocast(student.device.type, enabled=False):
            condition = _condition(images, valid)
            real, fake = _maps(teacher.detach(), valid), _maps(student.detach(), valid)
            both = torch.cat([real, fake])
            # One call, so that both meet the same spectral norm.
            scores = self.discriminator(both, torch.cat([condition, condition]))
            high, low = scores.chunk(2)
            health = {
                "teacher": _image_mean(high.detach(), valid),
                "student": _image_mean(low.detach(), valid),
                "accuracy": _image_mean((high > low).to(high.dtype), valid),
            }
            if self.adversary == "hinge":
                loss = _image_mean(F.relu(1 - high) + F.relu(1 + low), valid)
                return {"total": loss, **health}
            loss = _image_mean(low - high, valid)
            penalty = gradient_penalty(self.discriminator, real, fake, condition, valid)
            health["penalty"] = penalty.detach()
            return {"total": loss + self.penalty * penalty, **health}


def gradient_penalty(
    discriminator: nn.Module, real: Tensor, fake: Tensor, condition: Tensor, valid: Tensor
) -> Tensor:
    """Mean of (|gradient| - 1)² between the two sides (arXiv 1704.00028, equation 3).

    The place between is drawn for each image from torch's generator. A small number inside
    the root keeps its own gradient finite where the critic is flat.

    Args:
        real, fake: (N, K, h, w); condition: (N, 3, h, w).
    """
    share = torch.rand((len(real), 1, 1, 1), dtype=real.dtype, device=real.device)
    between = torch.lerp(real, fake, share).requires_grad_()
    with torch.enable_grad():
        score = discriminator(between, condition).sum()
        (slope,) = torch.autograd.grad(score, between, create_graph=True)
    length = (slope.flatten(1).square().sum(1) + 1e-12).sqrt()
    return _image_mean((length - 1).square(), valid)


def _maps(logits: Tensor, valid: Tensor) -> Tensor:
    """Class probabilities (N, K, h, w) in float32, 0 where not valid."""
    wide = logits.to(wide_type(logits)).masked_fill(~valid[:, None], 0)
    return torch.softmax(wide, dim=1) * valid[:, None]


def _condition(images: Tensor, valid: Tensor) -> Tensor:
    """RGB in 0..255 by area at the maps' size: (N, 3, h, w) in 0..1, 0 where not valid."""
    small = F.interpolate(images.float(), size=valid.shape[-2:], mode="area") / 255
    return small.masked_fill(~valid[:, None], 0)


def _image_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of (N,) over the images that have a valid pixel; 0 without any."""
    some = valid.flatten(1).any(1)
    return (values * some).sum() / some.sum().clamp(min=1)


@contextmanager
def _held(module: nn.Module) -> Iterator[None]:
    """Neither parameters nor state of `module` take part; a graph built in here stays so."""
    flags = [(p, p.requires_grad) for p in module.parameters()]
    modes = [(m, m.training) for m in module.modules()]
    module.requires_grad_(False).eval()
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for part, mode in modes:
            part.training = mode
