"""Distillation on logits: the pixel-wise and the channel-wise Kullback-Leibler divergence.

Shapes: N images, K classes, h × w pixels of the logits. `valid` is bool (N, h, w); what it
leaves out takes no part, whatever finite logits are there. Both losses compute value and
gradient together, in float32, on a CPU a part at a time that stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcli.losses.attached import attach
from segcli.losses.targets import CountOver, mean_over


class PixelKL(nn.Module):
    """T² KL(teacher || student) of the softmax over classes, mean per valid pixel.

    Hinton et al. (arXiv 1503.02531, section 2), per pixel as in arXiv 1903.04197, section 3.1.
    With a high temperature it tends to half the mean square, over classes, of the difference
    of the logits centred per pixel: matching of logits.

    Args:
        temperature: T > 0; both logits are divided by it.
        class_weights: (K,) float32, those of the supervised loss; the mean is then weighted, a
            pixel by the weights of its classes, each as probable as the teacher says (T = 1).
            Without, rare classes would count less here than they do beside it.
        count_over: where several processes share a batch, see `targets.mean_over`.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        temperature: float = 1.0,
        class_weights: Tensor | None = None,
        count_over: CountOver | None = None,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.count_over = count_over
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
        """Divergence of `student` (N, K, h, w) from `teacher` (N, K, h, w).

        Returns:
            Scalar float32 >= 0; 0 with zero gradient where no pixel is valid.
        """
        t = self.temperature
        with torch.no_grad():
            value, count = torch.zeros(2, dtype=wide_type(student), device=student.device)
            slope = torch.empty(student.shape, dtype=value.dtype, device=student.device)
            for s_i, t_i, keep, slope_i in _parts(2, student, teacher, valid[:, None], slope):
                log_s = F.log_softmax(tempered(s_i, t), dim=1)
                log_t = F.log_softmax(tempered(t_i, t), dim=1)
                p_t = log_t.exp()
                weight = self._weight(p_t, t_i) * keep
                pixel = log_t.sub_(log_s).mul_(p_t).sum(1, keepdim=True).mul_(weight)
                value += pixel.sum()
                count += weight.sum()
                torch.mul(log_s.exp_().sub_(p_t), weight, out=slope_i)
            scale = mean_over(value.new_ones(()), count, self.count_over)
        # What the whole is multiplied by reaches the slope in the backward pass, for nothing.
        return t * scale * attach(student, value * t, slope)

    def _weight(self, p_t: Tensor, teacher: Tensor) -> Tensor:
        """What a pixel counts, (N, 1, h, w); `p_t` and `teacher` are (N, K, h, w)."""
        if self.class_weights is None:
            return p_t.new_ones(())
        if self.temperature != 1:
            p_t = F.softmax(tempered(teacher, 1), dim=1)
        return (p_t * self.class_weights[:, None, None]).sum(1, keepdim=True)


class ChannelKL(nn.Module):
    """T² / K times the sum over channels of KL(teacher || student) of softmaxes over pixels.

    Channel-wise distillation of Shu et al. (arXiv 2011.13256, equations 2 to 4): each channel
    becomes a distribution over the valid pixels of its image. The mean over the images that
    have any.

    Args:
        temperature: T > 0; both logits are divided by it.
        count_over: where several processes share a batch, see `targets.mean_over`.
    """

    def __init__(self, temperature: float = 4.0, count_over: CountOver | None = None) -> None:
        super().__init__()
        self.temperature = temperature
        self.count_over = count_over

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
        """Divergence of `student` (N, K, h, w) from `teacher` (N, K, h, w).

        Returns:
            Scalar float32 >= 0; 0 with zero gradient where no pixel is valid.
        """
        t, channels = self.temperature, student.shape[1]
        with torch.no_grad():
            images = valid.flatten(1).any(1).sum()
            one = valid.new_ones((), dtype=torch.float32)
            scale = mean_over(one, images, self.count_over) / channels
            value = torch.zeros((), dtype=wide_type(student), device=student.device)
            slope = torch.empty(student.shape, dtype=value.dtype, device=student.device)
            nowhere = torch.zeros(valid.shape, dtype=value.dtype, device=valid.device)
            nowhere = nowhere.masked_fill_(~valid, _NOWHERE)[:, None].expand_as(student)
            for s_i, t_i, bias, slope_i in _parts(1, student, teacher, nowhere, slope):
                bias = bias[:, :1].flatten(2)
                log_s = F.log_softmax(torch.add(bias, _rows(s_i), alpha=1 / t), dim=2)
                log_t = F.log_softmax(torch.add(bias, _rows(t_i), alpha=1 / t), dim=2)
                p_t = log_t.exp()
                # Where a pixel is masked both are equal: 0 in value and slope.
                value += log_t.sub_(log_s).mul_(p_t).sum()
                torch.mul(log_s.exp_().sub_(p_t), t * scale, out=slope_i.flatten(2))
        return attach(student, value * (t * t * scale), slope)


def wide_type(logits: Tensor) -> torch.dtype:
    """The type losses are computed in: float32, but float64 stays."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Logits / T in planes of float32 (float64 stays); one copy of them at most."""
    kind = wide_type(logits)
    wide = logits.to(kind, memory_format=torch.contiguous_format)
    if temperature == 1:
        return wide
    return wide / temperature if wide is logits else wide.div_(temperature)


# Beside it any logit vanishes, its exponent is 0, and so is its difference from itself.
_NOWHERE = -1e30


def _rows(logits: Tensor) -> Tensor:
    """Logits as (N, K, h w) in float32 (float64 stays)."""
    return tempered(logits, 1).flatten(2)


# Numbers of one map that are worked on at once: 1 MiB of float32.
CACHED = 1 << 18


def _parts(dim: int, *maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Runs along `dim` of one image after another, as much as a CPU's cache holds; else all."""
    if maps[0].device.type != "cpu":
        yield maps
        return
    size = maps[0].shape[dim]
    step = max(1, CACHED * size // max(1, maps[0][0].numel()))
    for image in zip(*(x.chunk(len(x)) for x in maps), strict=True):
        for first in range(0, size, step):
            yield tuple(x.narrow(dim, first, min(step, size - first)) for x in image)
