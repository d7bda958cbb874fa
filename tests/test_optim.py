"""Schedules, groups, averages and the choice of arithmetic, against plain arithmetic."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from segcli.optim.average import WeightAverage
from segcli.optim.optimizers import build_optimizer, schedule_factor, set_lr
from segcli.optim.precision import Precision, candidates, choose_precision, take_turns


def test_warm_up_rises_to_one_and_poly_falls_to_zero() -> None:
    factors = [schedule_factor(s, 100, schedule="poly", power=0.9, warmup=0.1) for s in range(100)]
    assert factors[:10] == pytest.approx([(s + 1) / 11 for s in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5**0.9)
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert 0 < factors[-1] < 0.02


def test_cosine_and_constant() -> None:
    assert schedule_factor(25, 100, schedule="cosine") == pytest.approx(
        (1 + math.cos(math.pi / 4)) / 2
    )
    assert schedule_factor(99, 100, schedule="constant") == 1


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_groups_have_their_own_rate_and_norms_no_decay(name: str) -> None:
    net = nn.ModuleDict({"encoder": nn.Linear(3, 3), "decoder": nn.Linear(3, 2)})
    groups = {
        part: {"decay": [net[part].weight], "no_decay": [net[part].bias]}
        for part in ("encoder", "decoder")
    }
    optimizer = build_optimizer(
        groups, name=name, lr=0.1, encoder_lr_factor=0.2, weight_decay=0.5, momentum=0.9
    )
    rates = set_lr(optimizer, 0.5)
    assert rates == pytest.approx(
        {
            "encoder": 0.01,
            "encoder/no_decay": 0.01,
            "decoder": 0.05,
            "decoder/no_decay": 0.05,
        }
    )
    # With no gradient at all, only decay moves weights.
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"encoder.weight", "decoder.weight"}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_one_pass_takes_the_same_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 8, 3)
    twin = copy.deepcopy(plain)
    settings = {"name": name, "lr": 0.01, "encoder_lr_factor": 1.0, "weight_decay": 0.1}
    optimizers = []
    for layer, devices in ((plain, ()), (twin, ("cpu",))):
        monkeypatch.setattr("segcli.optim.optimizers.ONE_PASS", devices)
        groups = {"decoder": {"decay": [layer.weight], "no_decay": [layer.bias]}}
        optimizers.append(build_optimizer(groups, **settings, momentum=0.9))
        set_lr(optimizers[-1], 1.0)
    assert [o.defaults["fused"] for o in optimizers] == [None, True]
    for _ in range(5):
        images = torch.randn(2, 3, 8, 8)
        for layer, optimizer in zip((plain, twin), optimizers, strict=True):
            optimizer.zero_grad()
            layer(images).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(twin.weight, plain.weight)
    torch.testing.assert_close(twin.bias, plain.bias)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weights_that_begin_to_learn_later(name: str) -> None:
    """As where a `freeze_stride` ends; against torch's own way through one weight at a time."""
    late, early = nn.Linear(8, 8, bias=False), nn.Linear(8, 3, bias=False)
    members = [late.weight, early.weight]
    ours = build_optimizer(
        {"encoder": {"decay": members}},
        name=name,
        lr=1e-2,
        encoder_lr_factor=1.0,
        weight_decay=0.1,
        momentum=0.9,
    )
    set_lr(ours, 1.0)
    twins = [nn.Parameter(p.detach().clone()) for p in members]
    if name == "sgd":
        theirs: torch.optim.Optimizer = torch.optim.SGD(
            twins, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=0.1, foreach=False
        )
    else:
        theirs = torch.optim.AdamW(twins, lr=1e-2, weight_decay=0.1, foreach=False)
    for step in range(6):
        for number, (mine, its) in enumerate(zip(members, twins, strict=True)):
            learns = number or step >= 2
            mine.grad = torch.randn_like(mine) if learns else None
            its.grad = None if mine.grad is None else mine.grad.clone()
        if step == 2:
            trial = copy.deepcopy(ours)  # as a stage is tried out before it begins
            for parameter in trial.param_groups[0]["params"]:
                parameter.grad = torch.ones_like(parameter)
            trial.step()
        ours.step()
        theirs.step()
    for mine, its in zip(members, twins, strict=True):
        torch.testing.assert_close(mine, its)


def test_the_average_follows_its_formula() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(net, 0.9)
    expected = {k: v.clone().double() for k, v in net.state_dict().items()}
    for t in range(1, 30):
        net(torch.randn(4, 2))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(net)
        decay = min(0.9, (1 + t) / (10 + t))
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                expected[key] = decay * expected[key] + (1 - decay) * value.double()
            else:
                expected[key] = value.double()
    for key, value in average.model.state_dict().items():
        torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-6)
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())


def test_a_restarted_average_forgets_what_came_before() -> None:
    net = nn.Linear(2, 2)
    average = WeightAverage(net, 0.99)
    for _ in range(200):
        average.update(net)
    with torch.no_grad():
        net.weight.add_(1)
    average.restart()
    for _ in range(5):
        average.update(net)
    torch.testing.assert_close(average.model.weight, net.weight, rtol=0, atol=0.01)


def test_no_averaging_is_the_model_itself() -> None:
    net = nn.Linear(2, 2)
    average = WeightAverage(net, 0.0)
    with torch.no_grad():
        net.weight.add_(1)
    average.update(net)
    assert torch.equal(average.model.weight, net.weight)


def test_only_what_the_config_leaves_open_is_measured() -> None:
    assert candidates("fp32", True) == [Precision("fp32", True)]
    assert len(candidates("auto", None)) == 3
    assert {c.name for c in candidates("auto", False)} == {"fp32", "bf16"}
    assert all(c.name == "fp16" for c in candidates("fp16", None))


def test_measuring_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    chosen, seconds = choose_precision(
        net,
        lambda model, images: model(images.float()).float().square().mean(),
        size=(32, 32),
        batch_size=2,
        device=torch.device("cpu"),
    )
    assert set(seconds) == {str(c) for c in candidates("auto", None)}
    assert seconds[str(chosen)] == min(seconds.values())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_machine_that_changes_its_speed_does_not_change_the_choice() -> None:
    speed = iter([1.0, 1.0, 0.4, 0.4, 0.9, 0.9, 2.0, 2.0])
    slow, fast = (lambda: 3.0 * next(speed)), (lambda: 2.0 * next(speed))
    assert take_turns([slow, fast]) == pytest.approx((1.2, 0.8))
    assert len(list(speed)) == 2, "three rounds were enough"
    # The slower way had one moment in which all was fast.
    moments = iter([1.0, 1.0, 1.0, 1.0, 0.3, 1.0, 1.0, 1.0, 1.0, 1.0])
    slow, fast = (lambda: 3.0 * next(moments)), (lambda: 2.0 * next(moments))
    found = take_turns([slow, fast])
    assert found[1] < found[0] and not list(moments), "a round that was lost takes two more"


def test_ways_that_are_alike_are_not_timed_for_ever() -> None:
    turns = iter(range(100))
    alike = [lambda: 1.0 + next(turns) % 3, lambda: 1.0 + next(turns) % 3]
    take_turns(alike, most=5)
    assert next(turns) == 10
