"""What must hold of the distillation losses, as named checks, so that mutants can be put to them.

Each check takes the losses as a namespace: the real ones, or a copy with one line changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N, K, H, W = 2, 5, 6, 8
Similarity = Callable[[Tensor, Tensor, Tensor], Tensor]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a student and of a teacher, (N, K, H, W), and a mask with holes."""
    valid = rand(N, H, W, seed=seed + 2) > -0.5
    return 2 * rand(N, K, H, W, seed=seed), 2 * rand(N, K, H, W, seed=seed + 1), valid


def class_weights() -> Tensor:
    return torch.logspace(-2, 1, K)


def similarities(losses: SimpleNamespace) -> Iterator[tuple[str, Similarity]]:
    """Every loss that compares the student with the teacher."""
    for temperature in (1.0, 4.0):
        yield f"pixel at {temperature}", losses.PixelKL(temperature)
        yield f"channel at {temperature}", losses.ChannelKL(temperature)
    yield "pixel of weighted classes", losses.PixelKL(4.0, class_weights())
    for grid in (1, 2):
        yield f"pairwise with nodes of {grid}", losses.PairwiseSimilarity(grid)
    yield "feature", losses.FeatureMSE()


def with_slope(loss: Similarity, s: Tensor, t: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient with respect to the student."""
    s = s.detach().clone().requires_grad_()
    value = loss(s, t, valid)
    (slope,) = torch.autograd.grad(value, s)
    return value.detach(), slope


def same(ours: Tensor, theirs: Tensor, what: str) -> None:
    scale = float(theirs.detach().abs().max()) + 1e-8
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5 * scale, msg=lambda m: what + m)


def differ(ours: Tensor, theirs: Tensor, what: str) -> None:
    assert abs(float(ours - theirs)) > 0.01 * abs(float(theirs)), what


# --- all similarity losses -------------------------------------------------------------------


def check_a_perfect_student_has_nothing_to_learn(losses: SimpleNamespace) -> None:
    _, teacher, valid = batch()
    for name, loss in similarities(losses):
        value, slope = with_slope(loss, teacher, teacher, valid)
        assert value == 0, name
        assert not slope.any(), name


def check_a_duplicated_batch_changes_nothing(losses: SimpleNamespace) -> None:
    s, t, valid = batch()
    for name, loss in similarities(losses):
        value, slope = with_slope(loss, s, t, valid)
        twice = [torch.cat([x, x]) for x in (s, t, valid)]
        value_2, slope_2 = with_slope(loss, *twice)
        same(value_2, value, name)
        same(slope_2.view(2, *s.shape).sum(0), slope, name)


def check_padding_changes_nothing(losses: SimpleNamespace) -> None:
    s, t, valid = batch()
    right, bottom = 3, 5
    for name, loss in similarities(losses):
        value, slope = with_slope(loss, s, t, valid)
        wide = [F.pad(x, (0, right, 0, bottom), value=7.0) for x in (s, t)]
        keep = F.pad(valid, (0, right, 0, bottom), value=False)
        value_2, slope_2 = with_slope(loss, *wide, keep)
        same(value_2, value, name)
        same(slope_2[..., :H, :W], slope, name)
        assert not slope_2[..., H:, :].any() and not slope_2[..., W:].any(), name


def check_masked_pixels_change_nothing(losses: SimpleNamespace) -> None:
    s, t, valid = batch()
    out = ~valid[:, None]
    for name, loss in similarities(losses):
        value, slope = with_slope(loss, s, t, valid)
        for seed in (8, 9):
            noisy_s = torch.where(out, 50 * rand(*s.shape, seed=seed), s)
            noisy_t = torch.where(out, 50 * rand(*t.shape, seed=seed + 9), t)
            value_2, slope_2 = with_slope(loss, noisy_s, noisy_t, valid)
            same(value_2, value, name)
            same(slope_2, slope, name)
        assert not slope.masked_select(out).any(), name
        differ(loss(noisy_s, t, torch.ones_like(valid)), value, f"{name}: the mask does nothing")


def check_without_valid_pixels_all_is_zero(losses: SimpleNamespace) -> None:
    s, t, valid = batch()
    for name, loss in similarities(losses):
        value, slope = with_slope(loss, s, t, torch.zeros_like(valid))
        assert value == 0, name
        assert not slope.any(), name
        # An image without any takes no part either.
        one = valid.clone()
        one[1] = False
        value, _ = with_slope(loss, s, t, one)
        same(value, with_slope(loss, s[:1], t[:1], valid[:1])[0], name)


def check_slopes_are_those_of_the_values(losses: SimpleNamespace) -> None:
    """Against differences of the value, in float64, along random directions."""
    s, t, valid = batch()
    s, t, step = s.double(), t.double(), 1e-5
    for name, loss in similarities(losses):
        _, slope = with_slope(loss, s, t, valid)
        for seed in (21, 22, 23):
            way = rand(*s.shape, seed=seed).double()
            rise = (loss(s + step * way, t, valid) - loss(s - step * way, t, valid)) / (2 * step)
            same(rise, (slope * way).sum(), name)


# --- pixel and channel -----------------------------------------------------------------------


def check_pixels_may_be_permuted_jointly(losses: SimpleNamespace) -> None:
    s, t, valid = batch()
    order = torch.randperm(H * W, generator=torch.Generator().manual_seed(3))

    def permute(x: Tensor) -> Tensor:
        return x.flatten(-2)[..., order].view(x.shape)

    for loss in (losses.PixelKL(1.0), losses.PixelKL(4.0), losses.ChannelKL(4.0)):
        value, slope = with_slope(loss, s, t, valid)
        moved, slope_moved = with_slope(loss, permute(s), permute(t), permute(valid))
        same(moved, value, "")
        same(slope_moved, permute(slope), "")
        # Near its teacher, where a scrambled student must cost more.
        near = t + 0.1 * s
        assert loss(permute(near), t, valid) > 5 * loss(near, t, valid)


def check_pixel_ignores_shifts_per_pixel(losses: SimpleNamespace) -> None:
    s, t, valid = batch()
    shift = 5 * rand(N, 1, H, W, seed=4)
    for temperature in (1.0, 4.0):
        loss = losses.PixelKL(temperature)
        value, slope = with_slope(loss, s, t, valid)
        for moved_s, moved_t in ((s + shift, t), (s, t + shift)):
            value_2, slope_2 = with_slope(loss, moved_s, moved_t, valid)
            same(value_2, value, "")
            same(slope_2, slope, "")
        differ(loss(s + 5 * rand(N, K, 1, 1, seed=5), t, valid), value, "shift per channel")


def check_pixel_weighs_classes_as_the_teacher_sees_them(losses: SimpleNamespace) -> None:
    s, t, valid = batch()
    s[:, -1] += 3  # wrong above all of what weighs most
    weights = (torch.softmax(t, 1) * class_weights()[:, None, None]).sum(1)[valid]
    for temperature in (1.0, 4.0):
        p, q = (torch.softmax(x / temperature, 1) for x in (t, s))
        divergence = (p * (p / q).log()).sum(1)[valid]
        expected = temperature**2 * (weights * divergence).sum() / weights.sum()
        same(losses.PixelKL(temperature, class_weights())(s, t, valid), expected, "")
        alike = losses.PixelKL(temperature, torch.full((K,), 7.0))
        same(alike(s, t, valid), losses.PixelKL(temperature)(s, t, valid), "equal weights")
        differ(expected, divergence.mean(), "weights that do nothing")


def check_channel_ignores_shifts_per_channel(losses: SimpleNamespace) -> None:
    s, t, valid = batch()
    shift = 5 * rand(N, K, 1, 1, seed=4)
    for temperature in (1.0, 4.0):
        loss = losses.ChannelKL(temperature)
        value, slope = with_slope(loss, s, t, valid)
        for moved_s, moved_t in ((s + shift, t), (s, t + shift)):
            value_2, slope_2 = with_slope(loss, moved_s, moved_t, valid)
            same(value_2, value, "")
            same(slope_2, slope, "")
        differ(loss(s + 5 * rand(N, 1, H, W, seed=5), t, valid), value, "shift per pixel")


def check_a_high_temperature_matches_logits(losses: SimpleNamespace) -> None:
    """T² KL tends to half the variance of the difference, over classes or over pixels."""
    s, t, valid = (x.double() if x.is_floating_point() else x for x in batch())
    difference = s - t
    over_classes = difference.var(1, unbiased=False) / 2
    pixel = over_classes[valid].mean()
    rows = [difference[i][:, valid[i]] for i in range(N)]
    channel = torch.stack([row.var(1, unbiased=False).mean() / 2 for row in rows]).mean()
    gaps = []
    for temperature in (10.0, 100.0, 1000.0):
        ours = losses.PixelKL(temperature)(s, t, valid), losses.ChannelKL(temperature)(s, t, valid)
        gaps.append([abs(float(a / b) - 1) for a, b in zip(ours, (pixel, channel), strict=True)])
    assert max(gaps[-1]) < 5e-3, gaps
    assert all(a > 5 * b for a, b in zip(gaps[0], gaps[1], strict=True)), gaps


# --- pair-wise -------------------------------------------------------------------------------


def check_pairwise_ignores_positive_scaling(losses: SimpleNamespace) -> None:
    """So it has no slope along the features themselves: the length is not detached."""
    s, t, valid = batch()
    loss = losses.PairwiseSimilarity(1)
    value, slope = with_slope(loss, s, t, valid)
    scale = rand(N, 1, H, W, seed=6).exp()
    value_2, slope_2 = with_slope(loss, scale * s, t, valid)
    same(value_2, value, "")
    same(scale * slope_2, slope, "")
    same(loss(s, 3 * t, valid), value, "")
    along = (slope * s).sum(1).abs().max()
    assert along < 1e-4 * (slope.abs() * s.abs()).sum(1).max()
    # Nodes of several cells: all of them by one factor.
    loss = losses.PairwiseSimilarity(2)
    same(loss(0.3 * s, 5 * t, valid), loss(s, t, valid), "")
    differ(loss(-s * (scale > 1), t, valid), loss(s, t, valid), "scaling that is not positive")


def check_pairwise_ignores_joint_rotation(losses: SimpleNamespace) -> None:
    s, t, valid = batch()
    turn = torch.linalg.qr(rand(K, K, seed=7))[0]
    for grid in (1, 2):
        loss = losses.PairwiseSimilarity(grid)
        value, slope = with_slope(loss, s, t, valid)
        turned = torch.einsum("dc,nchw->ndhw", turn, s)
        value_2, slope_2 = with_slope(loss, turned, t, valid)
        same(value_2, value, "")
        same(torch.einsum("dc,ndhw->nchw", turn, slope_2), slope, "")


def check_pairwise_compares_unequal_widths(losses: SimpleNamespace) -> None:
    s, t, valid = batch()
    loss = losses.PairwiseSimilarity(2)
    value = loss(s, t, valid)
    # The same similarities in more channels, and at half the stride.
    wide = torch.cat([t, torch.zeros(N, 7, H, W)], dim=1)
    same(loss(s, wide, valid), value, "")
    every = torch.ones_like(valid)
    fine = t.repeat_interleave(2, 2).repeat_interleave(2, 3)
    same(loss(s, fine, every), loss(s, t, every), "")


def check_pairwise_is_its_definition(losses: SimpleNamespace) -> None:
    s, t, valid = batch()
    for grid in (1, 2, 3, 4):
        total = 0.0
        for i in range(N):
            nodes = []
            for top in range(0, H, grid):
                for left in range(0, W, grid):
                    window = (slice(top, top + grid), slice(left, left + grid))
                    inside = valid[i][window]
                    if inside.any():
                        pair = (x[i][:, *window][:, inside].mean(1) for x in (s, t))
                        nodes.append([x / x.norm() for x in pair])
            a, b = (torch.stack(list(side)) for side in zip(*nodes, strict=True))
            total += float((a @ a.T - b @ b.T).square().mean())
        same(losses.PairwiseSimilarity(grid)(s, t, valid), torch.tensor(total / N), f"{grid}")


# --- holistic --------------------------------------------------------------------------------


class Critic(nn.Module):
    """A small critic with a spectral norm, whose state moves in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.utils.parametrizations.spectral_norm(nn.Conv2d(K + 3, 6, 3, padding=1))
        self.score = nn.Linear(6, 1)

    def forward(self, maps: Tensor, images: Tensor) -> Tensor:
        x = torch.tanh(self.mix(torch.cat([maps, images], dim=1)))
        return self.score(x.mean((2, 3)))[:, 0]


def pictures() -> Tensor:
    return (rand(N, 3, 2 * H, 2 * W, seed=11).sigmoid() * 255).to(torch.uint8)


def check_a_student_step_leaves_the_discriminator(losses: SimpleNamespace) -> None:
    torch.manual_seed(0)
    s, _, valid = batch()
    s.requires_grad_()
    loss = losses.HolisticLoss(Critic())
    before = {name: x.clone() for name, x in loss.state_dict().items()}
    loss.student_term(s, pictures(), valid).backward()
    assert s.grad is not None and s.grad.any()
    assert not s.grad.masked_select(~valid[:, None]).any()
    assert all(p.grad is None for p in loss.parameters())
    assert all(p.requires_grad for p in loss.parameters())
    assert all(m.training for m in loss.modules())
    for name, x in loss.state_dict().items():
        assert torch.equal(x, before[name]), name


def check_a_discriminator_step_leaves_the_student(losses: SimpleNamespace) -> None:
    s, t, valid = batch()
    for adversary in ("hinge", "wgan-gp"):
        torch.manual_seed(0)
        student, teacher = s.clone().requires_grad_(), t.clone().requires_grad_()
        loss = losses.HolisticLoss(Critic(), adversary)
        loss.discriminator_term(student, teacher, pictures(), valid)["total"].backward()
        assert student.grad is None and teacher.grad is None
        assert all(p.grad is not None for p in loss.parameters())


def check_the_discriminator_sees_no_masked_pixel(losses: SimpleNamespace) -> None:
    s, t, valid = batch()
    out = ~valid[:, None]
    loss = losses.HolisticLoss(Critic()).eval()
    noise = torch.where(out, rand(*s.shape, seed=12), s)
    images = pictures().float()
    other = torch.where(out.repeat_interleave(2, 2).repeat_interleave(2, 3), 255 - images, images)
    clean = loss.student_term(s, images, valid)
    same(loss.student_term(noise, other, valid), clean, "")
    terms = loss.discriminator_term(s, t, images, valid)
    same(loss.discriminator_term(noise, t, other, valid)["total"], terms["total"], "")


def check_the_penalty_is_finite_without_a_slope(losses: SimpleNamespace) -> None:
    """A critic that is flat: the length of its slope is 0, where a plain root has none."""
    torch.manual_seed(0)
    s, t, valid = batch()
    critic = Critic()
    nn.init.zeros_(critic.score.weight)
    terms = losses.HolisticLoss(critic, "wgan-gp").discriminator_term(s, t, pictures(), valid)
    terms["total"].backward()
    assert abs(float(terms["penalty"]) - 1) < 1e-4
    for name, parameter in critic.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


CHECKS: dict[str, Callable[[SimpleNamespace], None]] = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_")
}
