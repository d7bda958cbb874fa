"""The grouped convolution against PyTorch's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
import torchvision

from segcli.models.build import build_encoder
from segcli.models.grouped import GroupedConv, GroupedConv2d, joined_groups


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """At these sizes threads mostly wait for each other, for minutes on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("join", [1, 2, 4])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)], ids=str)
def test_grouped_has_the_gradients_of_the_plain_one(
    stride: int, join: int, size: tuple[int, int]
) -> None:
    """In float64, with twice as many channels out as in, so that no axis can be mistaken."""
    torch.manual_seed(0)
    x = torch.randn(2, 12, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(24, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(x, weight, stride=stride, padding=1, groups=4)
    fast = GroupedConv.apply(x, weight, stride, join)
    assert torch.equal(fast, plain)
    up = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, (x, weight), up)
    torch.testing.assert_close(torch.autograd.grad(fast, (x, weight), up), expected)


@pytest.mark.parametrize(
    ("channels", "groups", "join"),
    [(128, 32, 4), (256, 32, 2), (512, 32, 1), (256, 64, 4), (12, 4, 4), (15, 5, 1), (96, 6, 1)],
)
def test_groups_are_joined_until_a_vector_is_full(channels: int, groups: int, join: int) -> None:
    assert joined_groups(channels, groups) == join
    assert groups % join == 0


@pytest.mark.parametrize(("name", "count"), [("resnext50_32x4d", 7), ("resnext101_32x8d", 3)])
def test_resnexts_have_their_narrow_groups_swapped(name: str, count: int) -> None:
    encoder = build_encoder(name)
    layers = [m for m in encoder.modules() if isinstance(m, GroupedConv2d)]
    assert len(layers) == count
    assert not any(isinstance(m, GroupedConv2d) for m in build_encoder("resnet18").modules())


def test_the_fast_way_back_is_taken_and_agrees_in_bfloat16() -> None:
    torch.manual_seed(0)
    fast = GroupedConv2d(32, 32, 3, padding=1, groups=8, bias=False)
    x = torch.randn(2, 32, 16, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = fast(x)
    assert y.dtype == torch.bfloat16
    assert "GroupedConv" in type(y.grad_fn).__name__
    inputs = (x, fast.weight)
    found = torch.autograd.grad(y.float().square().sum(), inputs)
    exact = torch.autograd.grad(fast(x).square().sum(), inputs)
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).abs().max() < 0.05 * other.abs().max()


def test_a_swapped_resnext_is_torchvisions_in_float32() -> None:
    """Features and gradients, with torchvision's own weights under torchvision's names."""
    torch.manual_seed(0)
    network = torchvision.models.resnext50_32x4d(weights=None).train()
    encoder = build_encoder("resnext50_32x4d").train()
    stem, layer1 = encoder.stages[0], encoder.stages[1][1]
    stem[0].load_state_dict(network.conv1.state_dict())
    stem[1].load_state_dict(network.bn1.state_dict())
    layer1.load_state_dict(network.layer1.state_dict())
    x = torch.randn(1, 3, 32, 32)
    plain = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(x)))))
    ours = encoder.stages[1](stem(x))
    torch.testing.assert_close(ours, plain)
    plain.square().sum().backward()
    ours.square().sum().backward()
    for (name, theirs), (twin, mine) in zip(
        network.layer1.named_parameters(), layer1.named_parameters(), strict=True
    ):
        assert name == twin
        torch.testing.assert_close(mine.grad, theirs.grad)
