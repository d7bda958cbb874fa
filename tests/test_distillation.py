"""The weighted set of distillation losses: sums, masks, precision, and that it teaches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from segcli.errors import ConfigError
from segcli.losses import distillation_features
from segcli.losses.distillation import TERMS, DistillationLoss
from segcli.losses.distillation_features import PairwiseSimilarity, valid_cells
from segcli.models.discriminator import Discriminator

sys.path.insert(0, str(Path(__file__).parent))
from distillation_checks import H, K, N, W, batch, pictures, rand, same, with_slope

SIMILAR = ("pixel", "channel", "pairwise", "feature")


def all_terms(seed: int = 0) -> DistillationLoss:
    torch.manual_seed(seed)
    weights = {"pixel": 1.0, "channel": 3.0, "pairwise": 10.0, "feature": 0.5, "holistic": 0.1}
    return DistillationLoss(
        weights,
        grid=2,
        student_channels=6,
        teacher_channels=9,
        discriminator=Discriminator(K, width=4),
    )


def test_total_is_the_weighted_sum_of_the_named_terms() -> None:
    s, t, valid = batch()
    loss = all_terms()
    features = rand(N, 6, H // 2, W // 2).requires_grad_(), rand(N, 9, H, W, seed=1)
    terms = loss(s.requires_grad_(), t, valid, *features, pictures())
    assert list(terms) == [*TERMS, "total"]
    total = sum(loss.weights[name] * terms[name] for name in TERMS)
    torch.testing.assert_close(terms["total"], total)
    terms["total"].backward()
    assert s.grad is not None and features[0].grad is not None
    # The convolution to the teacher's width trains with the student, the critic does not.
    assert all(p.grad is not None for p in loss.student_parameters())
    assert loss.holistic is not None
    assert all(p.grad is None for p in loss.holistic.parameters())


def test_the_teacher_gets_no_gradient() -> None:
    s, t, valid = batch()
    t.requires_grad_()
    shown = rand(N, 9, H, W).requires_grad_()
    terms = all_terms()(s.requires_grad_(), t, valid, rand(N, 6, H, W), shown, pictures())
    terms["total"].backward()
    assert t.grad is None and shown.grad is None


def test_without_weights_nothing_is_computed_and_nothing_is_drawn() -> None:
    s, t, valid = batch()
    state = torch.get_rng_state()
    loss = DistillationLoss(dict.fromkeys(TERMS, 0.0), student_channels=6, teacher_channels=9)
    terms = loss(s.requires_grad_(), t, valid)
    assert list(terms) == ["total"] and terms["total"] == 0
    assert not terms["total"].requires_grad
    assert torch.equal(torch.get_rng_state(), state)


def test_defaults_are_pixel_1_and_channel_3_at_temperature_4() -> None:
    s, t, valid = batch()
    loss = DistillationLoss()
    assert loss.weights == {"pixel": 1.0, "channel": 3.0}
    terms = loss(s, t, valid)
    keep = valid[:, None]
    p_s, p_t = F.log_softmax(s / 4, 1), F.log_softmax(t / 4, 1)
    pixel = 16 * (p_t.exp() * (p_t - p_s)).sum(1)[valid].mean()
    rows = [(x / 4).masked_fill(~keep, -torch.inf).flatten(2).log_softmax(2) for x in (s, t)]
    each = (rows[1].exp() * (rows[1] - rows[0])).nan_to_num(0)
    channel = 16 * each.sum() / (N * K)
    same(terms["pixel"], pixel, "pixel")
    same(terms["channel"], channel, "channel")
    same(terms["total"], pixel + 3 * channel, "total")


def test_temperatures_by_name() -> None:
    s, t, valid = batch()
    loss = DistillationLoss(temperature={"pixel": 1.0, "channel": 2.0})
    assert (loss.pixel.temperature, loss.channel.temperature) == (1.0, 2.0)
    one = DistillationLoss({"pixel": 1.0}, temperature=1.0)
    assert torch.equal(loss(s, t, valid)["pixel"], one(s, t, valid)["pixel"])


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"pixle": 1.0}, "did you mean 'pixel'"),
        ({"pixel": -1.0}, "below 0"),
        ({"holistic": 1.0}, "needs a discriminator"),
    ],
)
def test_what_cannot_be_meant_is_an_error(weights: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DistillationLoss(weights)


def test_holistic_without_images_is_an_error() -> None:
    s, t, valid = batch()
    loss = DistillationLoss({"holistic": 1.0}, discriminator=Discriminator(K, width=4))
    with pytest.raises(ValueError, match="images"):
        loss(s, t, valid)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_void_is_left_out_by_choice(soft: bool) -> None:
    s, t, valid = batch()
    labels = torch.randint(0, K, (N, H, W), generator=torch.Generator().manual_seed(5))
    labels[:, 2:4] = 255
    target = labels.to(torch.uint8)
    if soft:
        target = (labels[:, None] == torch.arange(K)[:, None, None]).to(torch.uint8) * 255
    weights = dict.fromkeys(SIMILAR, 1.0)
    without = DistillationLoss(weights, grid=2, ignore_void=True)
    given = without(s, t, valid, target=target)["total"]
    same(given, without(s, t, valid & (labels != 255))["total"], "")
    kept = DistillationLoss(weights, grid=2)(s, t, valid, target=target)["total"]
    assert torch.equal(kept, without(s, t, valid)["total"]) and kept != given


def test_masks_and_teachers_of_another_size() -> None:
    s, t, _ = batch()
    fine = torch.ones(N, 4 * H, 4 * W, dtype=torch.bool)
    fine[:, 4 * (H - 1) + 1 :] = False  # the last row of cells is padding but for a quarter
    assert torch.equal(valid_cells(fine, (H, W))[:, -1], torch.zeros(N, W, dtype=torch.bool))
    assert valid_cells(fine, (H, W))[:, :-1].all()
    assert valid_cells(fine[:, :4, :4], (8, 8)).all()
    loss = DistillationLoss()
    coarse = F.interpolate(t, (H // 2, W // 2), mode="bilinear", align_corners=False)
    back = F.interpolate(coarse, (H, W), mode="bilinear", align_corners=False)
    valid = valid_cells(fine, (H, W))
    assert torch.equal(loss(s, coarse, fine)["total"], loss(s, back, valid)["total"])


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_half_precision_in_float32_out(form: torch.memory_format) -> None:
    s, t, valid = batch()
    low = [x.to(torch.bfloat16, memory_format=form) for x in (s, t)]
    high = [x.float() for x in low]
    loss = DistillationLoss(dict.fromkeys(SIMILAR, 1.0), grid=2)
    for name in SIMILAR:

        def call(a: Tensor, b: Tensor, mask: Tensor, name: str = name) -> Tensor:
            term: Tensor = loss(a, b, mask, a, b)[name]
            return term

        with torch.autocast("cpu", dtype=torch.bfloat16):
            value, slope = with_slope(call, low[0], low[1], valid)
        expected, slope_wide = with_slope(call, high[0], high[1], valid)
        assert value.dtype == torch.float32 and slope.dtype == torch.bfloat16
        same(value, expected, name)
        torch.testing.assert_close(slope.float(), slope_wide, rtol=0.03, atol=1e-4)


def test_processes_share_a_batch() -> None:
    """Two that average their gradients take the step of one with the whole batch."""
    s, t, valid = batch()
    valid[1, :4] = False
    weights = dict.fromkeys(("pixel", "channel", "pairwise"), 1.0)
    counts: list[list[Tensor]] = []

    def record(count: Tensor) -> Tensor:
        counts[-1].append(count)
        return count

    for i in range(N):
        counts.append([])
        DistillationLoss(weights, grid=2, count_over=record)(s[[i]], t[[i]], valid[[i]])
    means = [sum(pair) / N for pair in zip(*counts, strict=True)]
    parts = []
    for i in range(N):
        given = iter(means)
        loss = DistillationLoss(weights, grid=2, count_over=lambda _, g=given: next(g))
        parts.append(loss(s[[i]], t[[i]], valid[[i]])["total"])
    same(sum(parts) / N, DistillationLoss(weights, grid=2)(s, t, valid)["total"], "")


def test_blocks_of_similarities_are_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    s, t, valid = batch()
    value, slope = with_slope(PairwiseSimilarity(1), s, t, valid)
    monkeypatch.setattr(distillation_features, "BLOCK", 5 * H * W)
    value_2, slope_2 = with_slope(PairwiseSimilarity(1), s, t, valid)
    same(value_2, value, "")
    same(slope_2, slope, "")


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_the_similarities_are_never_held_at_once() -> None:
    """4096 nodes, so 16 million pairs, of which a block is the most that is there."""
    s, t = rand(1, 3, 64, 64), rand(1, 4, 64, 64, seed=1)
    with Largest() as seen:
        with_slope(PairwiseSimilarity(1), s, t, torch.ones(1, 64, 64, dtype=torch.bool))
    assert 4096 < seen.elements <= distillation_features.BLOCK < 4096**2


def test_features_of_one_scale_and_shift_are_equal() -> None:
    """Standardised: what batch norm would undo costs nothing; unrelated channels cost 1."""
    s, t, valid = batch()
    loss = DistillationLoss({"feature": 1.0})
    scale, shift = rand(1, K, 1, 1, seed=4).exp(), rand(1, K, 1, 1, seed=5)
    assert loss(s, t, valid, scale * t + shift, t)["feature"] < 1e-5
    assert loss(s, t, valid, -t, t)["feature"] == pytest.approx(2, rel=1e-5)
    wide = [rand(4, 16, 32, 32, seed=seed) for seed in (6, 7)]
    every = torch.ones(4, 32, 32, dtype=torch.bool)
    assert loss(*wide, every)["feature"] == pytest.approx(1, abs=0.05)


# --- the discriminator -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 32)])
def test_discriminator_takes_any_size(size: tuple[int, int]) -> None:
    critic = Discriminator(K, width=4)
    score = critic(rand(3, K, *size), rand(3, 3, *size, seed=1))
    assert score.shape == (3,) and score.isfinite().all()


def test_discriminator_looks_at_the_image() -> None:
    torch.manual_seed(0)
    critic = Discriminator(K, width=4).eval()
    maps, images = rand(2, K, H, W).softmax(1), rand(2, 3, H, W, seed=1).sigmoid()
    assert not torch.allclose(critic(maps, images), critic(maps, 1 - images))
    # Images of a batch are judged one by one.
    torch.testing.assert_close(critic(maps, images)[:1], critic(maps[:1], images[:1]))


def test_discriminator_is_lipschitz() -> None:
    """Spectral norms of about 1: no direction is stretched by more than its depth allows."""
    torch.manual_seed(0)
    critic = Discriminator(K, width=8)
    for _ in range(20):  # the power iteration moves a step at each call in train mode
        critic(rand(1, K, H, W), rand(1, 3, H, W))
    critic.eval().requires_grad_(False)
    for name, layer in critic.named_modules():
        if isinstance(layer, nn.Conv2d):
            largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
            assert float(largest) == pytest.approx(1, abs=0.05), name


@pytest.mark.parametrize("adversary", ["hinge", "wgan-gp"])
def test_discriminator_learns_to_tell_teacher_from_student(adversary: str) -> None:
    torch.manual_seed(0)
    critic = Discriminator(K, width=8)
    loss = DistillationLoss({"holistic": 1.0}, discriminator=critic, adversary=adversary)  # type: ignore[arg-type]
    assert loss.holistic is not None
    optimizer = torch.optim.Adam(critic.parameters(), lr=4e-3, betas=(0.5, 0.9))
    s, t, valid = rand(4, K, 16, 16), 4 * rand(4, K, 16, 16, seed=1), torch.ones(4, 16, 16) > 0
    images = (rand(4, 3, 16, 16, seed=2).sigmoid() * 255).to(torch.uint8)
    before = float(loss(s, t, valid, images=images)["holistic"])
    for _ in range(15):
        optimizer.zero_grad()
        terms = loss.holistic.discriminator_term(s, t, images, valid)
        terms["total"].backward()
        optimizer.step()
    assert terms["accuracy"] == 1
    assert terms["teacher"] > terms["student"] + 0.5
    after = float(loss(s, t, valid, images=images)["holistic"])
    assert after > before  # the student is further from pleasing it
    # ... and where its loss is low, the student looks like the teacher.
    assert loss(t, t, valid, images=images)["holistic"] < after


# --- it teaches ------------------------------------------------------------------------------


def overfit(weights: dict[str, float], steps: int) -> tuple[float, float]:
    """Agreement of a tiny student with a tiny teacher on one batch, before and after."""
    torch.manual_seed(0)
    images = F.interpolate(torch.rand(2, 3, 4, 5), (12, 16), mode="bicubic").clamp(0, 1)
    middle = 6 * (images - 0.5)
    student = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.Tanh(), nn.Conv2d(64, K, 1))
    with torch.no_grad():
        # The teacher: the nearest of K colours.
        colours = 2 * rand(K, 3, 1, 1)
        logits = 8 * (
            F.conv2d(middle, colours) - colours.square().sum((1, 2, 3))[:, None, None] / 2
        )
    valid = torch.ones(2, 12, 16, dtype=torch.bool)
    critic = Discriminator(K, width=4) if "holistic" in weights else None
    loss = DistillationLoss(weights, grid=2, discriminator=critic)
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-2)
    rival = None if critic is None else torch.optim.Adam(critic.parameters(), lr=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def agreement() -> float:
        with torch.no_grad():
            return float((student(middle).argmax(1) == logits.argmax(1)).float().mean())

    before = agreement()
    for _ in range(steps):
        out = student(middle)
        if rival is not None and loss.holistic is not None:
            rival.zero_grad()
            against = loss.holistic.discriminator_term(out, logits, 255 * images, valid)
            against["total"].backward()
            rival.step()
        optimizer.zero_grad()
        loss(out, logits, valid, images=255 * images)["total"].backward()
        optimizer.step()
        schedule.step()
    return before, agreement()


@pytest.mark.parametrize(
    ("weights", "steps"),
    [
        ({"pixel": 1.0}, 300),
        ({"pixel": 1.0, "channel": 3.0}, 600),
        pytest.param(
            {"pixel": 1.0, "pairwise": 1.0, "holistic": 0.001}, 200, marks=pytest.mark.slow
        ),
    ],
    ids=["pixel", "default", "paper"],
)
def test_one_batch_is_overfitted_by_distillation_alone(
    weights: dict[str, float], steps: int
) -> None:
    before, after = overfit(weights, steps)
    assert before < 0.5
    assert after > 0.99
