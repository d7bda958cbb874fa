"""The predictor: own size in, own size out, whatever the model sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_run import SPACE, RedDecides, blocks, make_run, one_thread  # noqa: F401
from torch import nn

from segcli.errors import CheckpointError, UsageError
from segcli.inference.geometry import SizeRule
from segcli.inference.predictor import Predictor


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_class_maps_are_known(precision, channels_last):
    predictor = Predictor(RedDecides(), SPACE, precision=precision, channels_last=channels_last)
    image = blocks(1, 37, 53)
    result = predictor.predict(image)
    assert result.dtype == np.uint8
    assert (result == image[:, :, 0] // 64).all()


@pytest.mark.parametrize("size", [None, (96, 128), {"scale": 2}, {"longest": 128}])
def test_the_way_back_is_exact(size):
    """Blocks survive a doubling and halving but for a pixel at their edges."""
    image = blocks(2, 48, 64)
    result = Predictor(RedDecides(), SPACE, size=SizeRule.of(size)).predict(image)
    assert result.shape == (48, 64)
    centres = (slice(4, None, 8), slice(4, None, 8))
    assert (result[centres] == (image[:, :, 0] // 64)[centres]).all()


def test_the_model_sees_the_size_of_the_rule():
    seen = []

    class Spy(RedDecides):
        def forward(self, images):
            seen.append((tuple(images.shape), images.dtype))
            return super().forward(images)

    Predictor(Spy(), SPACE, size=(32, 40)).predict(blocks(0, 50, 30))
    assert seen == [((1, 3, 32, 40), torch.uint8)]


def test_output_at_the_labels_resolution_interpolates_logits():
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 1, 0] = 255
    model = RedDecides()
    # Between class 0 and class 3 lie the logits of 1 and 2: labels would never show them.
    result = Predictor(model, SPACE).predict(image, output_size=(2, 8))
    assert result.shape == (2, 8)
    assert result[0, 0] == 0 and result[0, -1] == 3


def test_batches_equal_single_pictures():
    images = [blocks(seed, 40, 24) for seed in range(3)]
    predictor = Predictor(RedDecides(), SPACE)
    batch = predictor.predict_batch(images)
    assert batch.shape == (3, 40, 24)
    assert all((predictor.predict(i) == b).all() for i, b in zip(images, batch, strict=True))


def test_a_model_in_training_is_put_to_eval_and_no_gradient_is_kept():
    class Layered(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.head = nn.Conv2d(3, 4, 1)

        def forward(self, images):
            return self.head(self.norm(images.float()))

    model = Layered().train()
    before = model.norm.running_mean.clone()
    logits = Predictor(model, SPACE).logits([blocks(0)])
    assert not model.training and not logits.requires_grad
    assert torch.equal(model.norm.running_mean, before)


@pytest.mark.parametrize(
    "images",
    [
        [np.zeros((4, 4), np.uint8)],
        [np.zeros((4, 4, 3), np.float32)],
        [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)],
        [np.zeros((0, 4, 3), np.uint8)],
    ],
)
def test_what_is_no_picture_is_refused(images):
    with pytest.raises(ValueError):
        Predictor(RedDecides(), SPACE).predict_batch(images)


def test_from_a_checkpoint_alone(tmp_path):
    folder = make_run(tmp_path / "run", tmp_path / "prepared")
    predictor = Predictor.from_checkpoint(folder, device="cpu")
    assert predictor.label_space == SPACE
    assert predictor.precision == "fp32"
    result = predictor.predict(blocks(0, 33, 47))
    assert result.shape == (33, 47) and result.max() < 4
    again = Predictor.from_checkpoint(folder, device="cpu")
    assert (again.predict(blocks(0, 33, 47)) == result).all()


def test_damage_and_wrong_wishes_are_named(tmp_path):
    folder = make_run(tmp_path / "run", tmp_path / "prepared")
    with pytest.raises(UsageError, match=r"precision 'fp8' \(one of fp32, bf16, fp16\)"):
        Predictor.from_checkpoint(folder, device="cpu", precision="fp8")
    with pytest.raises(UsageError):
        Predictor.from_checkpoint(folder, device="gpu")
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        Predictor.from_checkpoint(folder, device="cpu")


@pytest.mark.parametrize(
    ("rule", "size", "target"),
    [
        (None, (7, 9), (7, 9)),
        ([512, 1024], (7, 9), (512, 1024)),
        ({"scale": 0.5}, (101, 50), (50, 25)),
        ({"scale": 0.01}, (10, 10), (1, 1)),
        ({"longest": 100}, (50, 200), (25, 100)),
        ({"longest": 100}, (200, 50), (100, 25)),
    ],
)
def test_size_rules(rule, size, target):
    assert SizeRule.of(rule).target(size) == target
    image = np.zeros((*size, 3), np.uint8)
    assert SizeRule.of(rule).apply(image).shape == (*target, 3)


@pytest.mark.parametrize("rule", [{"scale": 0}, {"size": 3}, [1, 2, 3], "big", {"fixed": [3]}])
def test_odd_size_rules_are_refused(rule):
    with pytest.raises(ValueError, match="size rule"):
        SizeRule.of(rule)
