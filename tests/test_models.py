"""One suite for every encoder with every decoder, and what is particular to some of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segcli.errors import ConfigError
from segcli.models.build import DECODERS, ENCODERS, build_model, parameter_groups
from segcli.models.segmenter import Segmenter, TrainingOutput

CLASSES = 5
VARIANTS = [("unet", "plain"), ("unet", "residual"), ("fpn", "plain")]
TIMM = ["timm:resnet10t", "timm:convnext_atto"]


def small(encoder: str, decoder: str = "fpn", block: str = "plain", **options: object) -> Segmenter:
    torch.manual_seed(0)
    settings = {"width": 16, "head_width": 16, "num_classes": CLASSES, **options}
    return build_model(encoder=encoder, decoder=decoder, decoder_block=block, **settings)


def pictures(height: int, width: int, count: int = 1, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """At 64 pixels threads mostly wait for each other, for minutes on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=[*ENCODERS, *TIMM])
def encoder(request: pytest.FixtureRequest) -> str:
    if request.param.startswith("timm:"):
        pytest.importorskip("timm")
    return str(request.param)


@pytest.fixture(scope="module", params=VARIANTS, ids="-".join)
def model(request: pytest.FixtureRequest, encoder: str) -> Iterator[Segmenter]:
    decoder, block = request.param
    yield small(encoder, decoder, block)


# --- every encoder with every decoder -------------------------------------------------


def test_gradients_reach_every_parameter(model: Segmenter) -> None:
    model.train()
    output = model(pictures(64, 64))  # a batch of one
    assert isinstance(output, TrainingOutput)
    assert output.logits.shape == (1, CLASSES, 64, 64)
    loss = sum(F.cross_entropy(x, torch.zeros_like(x[:, 0]).long()) for x in _all(output))
    model.zero_grad()
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
    # A gradient that is zero everywhere would mean a path that is cut; ReLUs that are all
    # off can do that to single biases of a random network, but not to a decoder's weights.
    dead = [n for n, p in model.decoder.named_parameters() if p.ndim > 1 and not p.grad.any()]
    assert dead == []
    model.zero_grad()


@pytest.mark.parametrize("size", [(33, 47), (64, 97)], ids=str)
def test_eval_keeps_the_size_and_is_deterministic(model: Segmenter, size: tuple[int, int]) -> None:
    model.eval()
    images = pictures(*size)
    with torch.inference_mode():
        first, second = model(images), model(images)
    assert first.shape == (1, CLASSES, *size)
    assert torch.equal(first, second)
    assert torch.isfinite(first).all()


def test_smallest_batch_trains(model: Segmenter) -> None:
    """One image of one cell: batch norm at stride 32 would see a single value."""
    model.train()
    assert model(pictures(32, 32)).logits.shape == (1, CLASSES, 32, 32)


def test_saved_weights_give_the_same_logits(model: Segmenter, tmp_path: Path) -> None:
    model.eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    twin = copy.deepcopy(model)
    for tensor in (*twin.parameters(), *twin.buffers()):
        tensor.data.zero_()
    twin.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    images = pictures(40, 72)
    with torch.inference_mode():
        assert torch.equal(model(images), twin(images))


# --- each part on its own -------------------------------------------------------------


def _all(output: TrainingOutput) -> list[Tensor]:
    return [output.logits, *output.auxiliary.values()]


def test_encoder_contract(encoder: str) -> None:
    model = small(encoder).eval()
    maps = model.encoder(torch.zeros(1, 3, 64, 96))
    expected = [
        (1, c, 64 // s, 96 // s)
        for c, s in zip(model.encoder.channels, model.encoder.strides, strict=True)
    ]
    assert [tuple(m.shape) for m in maps] == expected
    assert model.encoder.strides[-4:] == (4, 8, 16, 32)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"])
@pytest.mark.parametrize("width_mult", [0.35, 1.4])
def test_width_multiplier(name: str, width_mult: float) -> None:
    model = small(name, width_mult=width_mult).eval()
    standard = small(name)
    assert (model.encoder.channels[3] < standard.encoder.channels[3]) == (width_mult < 1)
    with torch.inference_mode():
        assert model(pictures(64, 64)).shape == (1, CLASSES, 64, 64)


@pytest.mark.parametrize("decoder", DECODERS)
def test_odd_sizes_train(decoder: str) -> None:
    model = small("mobilenet_v3_small", decoder).train()
    for size in [(1, 1), (31, 33), (33, 47), (65, 97)]:
        output = model(pictures(*size))
        assert output.logits.shape == (1, CLASSES, *size)
        for level, stride in zip(output.auxiliary.values(), (4, 8, 16, 32), strict=False):
            assert level.shape[-2:] == tuple(side // stride for side in output.padded_size)


def test_auxiliary_logits_are_at_their_own_stride() -> None:
    model = small("mobilenet_v2").train()
    shapes = {k: tuple(v.shape[2:]) for k, v in model(pictures(64, 96)).auxiliary.items()}
    assert shapes == {"p2": (16, 24), "p3": (8, 12), "p4": (4, 6), "p5": (2, 3)}
    assert small("mobilenet_v2", auxiliary=False).train()(pictures(64, 96)).auxiliary == {}
    assert small("mobilenet_v2", "unet").train()(pictures(64, 96)).auxiliary == {}


def test_normalisation_is_inside() -> None:
    model = small("mobilenet_v2", mean=(0.5, 0.25, 0.125), std=(0.5, 1.0, 0.25)).eval()
    images = pictures(48, 64)
    with torch.inference_mode():
        assert torch.equal(model(images), model(images.float()))
        by_hand = (images.float() / 255 - torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1)) / (
            torch.tensor([0.5, 1.0, 0.25]).view(3, 1, 1)
        )
        torch.testing.assert_close(model.normalise(images), by_hand, atol=1e-6, rtol=1e-5)


def test_float_input_is_left_alone() -> None:
    images = pictures(33, 64).float()
    before = images.clone()
    small("mobilenet_v2").eval()(images)
    assert torch.equal(images, before)


def test_logits_at_stride_lead_to_forward() -> None:
    for decoder in DECODERS:
        model = small("mobilenet_v2", decoder).eval()
        with torch.inference_mode():
            low = model.logits_at_stride(pictures(40, 50))
            full = F.interpolate(
                low.logits, size=low.padded_size, mode="bilinear", align_corners=False
            )
            assert torch.equal(full[..., :40, :50], model(pictures(40, 50)))
        assert low.padded_size == (64, 64)
        assert low.logits.shape[2:] == (64 // model.decoder.stride,) * 2


@pytest.mark.parametrize(("decoder", "block"), VARIANTS, ids="-".join)
def test_channels_last_and_bfloat16_on_the_cpu(decoder: str, block: str) -> None:
    model = small("mobilenet_v2", decoder, block).train()
    model = model.to(memory_format=torch.channels_last)
    images = pictures(64, 64, count=2).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.encoder(model.normalise(images))[1].is_contiguous(
            memory_format=torch.channels_last
        )
        output = model(images)
    loss = sum(F.cross_entropy(x.float(), torch.zeros_like(x[:, 0]).long()) for x in _all(output))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    model.eval()
    with torch.inference_mode():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(images).float()
    assert (exact - rounded).abs().max() < 0.05 * exact.abs().max() + 0.01


def test_decoder_width_is_a_parameter() -> None:
    for decoder in DECODERS:
        narrow, wide = (small("mobilenet_v2", decoder, width=w) for w in (16, 64))
        count = [sum(p.numel() for p in m.decoder.parameters()) for m in (narrow, wide)]
        assert count[0] < count[1]


def test_parameter_groups_hold_every_parameter_once() -> None:
    model = small("mobilenet_v2")
    groups = parameter_groups(model)
    assert {k: set(v) for k, v in groups.items()} == {
        part: {"decay", "no_decay"} for part in ("encoder", "decoder")
    }
    flat = [id(p) for part in groups.values() for group in part.values() for p in group]
    assert sorted(flat) == sorted(id(p) for p in model.parameters())
    undecayed = {id(p) for part in groups.values() for p in part["no_decay"]}
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert {id(module.weight), id(module.bias)} <= undecayed
        if isinstance(module, torch.nn.Conv2d):
            assert id(module.weight) not in undecayed


# --- names and numbers that do not fit --------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "mobilnet_v2"}, "did you mean mobilenet_v2?"),
        ({"encoder": "vgg"}, "known: resnet18"),
        ({"decoder": "fnp"}, "did you mean fpn?"),
        ({"decoder_block": "residul"}, "did you mean residual?"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"width": 0}, "width must be at least 1"),
        ({"width_mult": 0.0}, "width_mult must be above 0"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"encoder": "resnet18", "width_mult": 0.5}, "width_mult is for MobileNets"),
        ({"width_mult": 0.5, "encoder_weights": "imagenet"}, "no ImageNet weights"),
    ],
)
def test_bad_arguments_are_one_line(options: dict[str, object], message: str) -> None:
    settings = {"encoder": "mobilenet_v2", "decoder": "fpn", "num_classes": 2, **options}
    with pytest.raises(ConfigError) as caught:
        build_model(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", *TIMM[:1]])
def test_the_layers_up_to_a_stride_are_those_behind_its_map(name: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    encoder = small(name).encoder
    assert encoder.up_to(0) == [] and encoder.up_to(32) == [encoder]
    if name.startswith("timm:"):
        assert encoder.up_to(8) == []
        return
    x = torch.rand(1, 3, 64, 64)
    maps = encoder.eval()(x)
    for layers, wanted in zip(encoder.up_to(8), maps, strict=False):
        x = layers(x)
        assert torch.equal(x, wanted)
    assert x.shape[2:] == (8, 8)


def test_timm_absent_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigError, match=r"segcli\[timm\]"):
        small("timm:resnet18")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_network", "timm has no network 'no_such_network'"),
        ("vit_tiny_patch16_224", "strides"),
        ("swin_tiny_patch4_window7_224", "any size"),
    ],
)
def test_timm_networks_that_cannot_serve(name: str, message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=message):
        small(f"timm:{name}")
