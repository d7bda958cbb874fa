"""Views, their exact way back, and the mean over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_run import MODEL, SPACE, RedDecides, blocks, one_thread  # noqa: F401
from torch import nn

from segcli.errors import UsageError
from segcli.inference.geometry import SizeRule
from segcli.inference.predictor import Predictor
from segcli.inference.tta import PLAIN, TTA, View
from segcli.models.build import build_model


class Symmetric(nn.Module):
    """Commutes with flips where the sides are multiples of its stride; pads like a `Segmenter`.

    Colours decide, and so do the neighbours, alike on both sides.
    """

    class Output(tuple):
        logits = property(lambda self: self[0])

    def logits_at_stride(self, images):
        x = images.float()
        x = F.pad(x, (0, -x.shape[3] % 32, 0, -x.shape[2] % 32))
        kernel = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])) / 16
        x = F.conv2d(x, kernel.repeat(3, 1, 1, 1), padding=1, groups=3)
        return self.Output((torch.cat([x, x.mean(1, keepdim=True)], 1) / 16,))


def photo(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 96), (48, 65), (33, 47), (20, 31), (1, 1), (97, 130)])
@pytest.mark.parametrize("model", [Symmetric, RedDecides])
def test_a_network_that_commutes_with_flips_is_not_changed_by_them(size, model):
    if model is Symmetric:
        # Padding is on the right: the last column before it has another neighbour, unless
        # the picture ends in what it is padded with.
        image = photo(0, *size)
        image[:, [0, -1]] = 0
        image[[0, -1]] = 0
    else:
        image = photo(1, *size)
    plain = Predictor(model(), SPACE)
    merged = plain.with_tta(TTA(scales=(1.0,)))
    assert len(merged.views) == 2
    assert (merged.predict(image) == plain.predict(image)).all()
    single = plain.probabilities([image])
    assert torch.equal(merged.probabilities([image]), single)
    torch.testing.assert_close(single, plain.logits([image]).softmax(1))


@pytest.mark.parametrize("size", [(40, 56), (33, 47)])
def test_flips_of_a_real_network_are_those_of_the_mirrored_picture(size):
    """An oracle for any network: mirror the picture, predict plainly, mirror the result."""
    torch.manual_seed(0)
    model = build_model(**MODEL, num_classes=4, width_mult=0.25).eval()
    plain = Predictor(model, SPACE)
    image = photo(2, *size)
    there = plain.probabilities([image])
    back = plain.probabilities([np.ascontiguousarray(image[:, ::-1])]).flip(-1)
    merged = plain.with_tta(TTA(scales=(1.0,))).probabilities([image])
    torch.testing.assert_close(merged, (there + back) / 2)


def test_the_mean_is_of_softmax_over_all_views():
    torch.manual_seed(0)
    model = build_model(**MODEL, num_classes=4, width_mult=0.25).eval()
    image, size = photo(3, 45, 62), (45, 62)
    tta = TTA(scales=(0.5, 1.0, 1.5))
    expected = []
    for view in tta.views():
        seen = view.apply(image, SizeRule())
        with torch.inference_mode():
            logits = model(torch.from_numpy(np.ascontiguousarray(seen)).permute(2, 0, 1)[None])
            full = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        expected.append((full.flip(-1) if view.flip else full).softmax(1))
    mean = torch.stack(expected).mean(0)
    predictor = Predictor(model, SPACE, tta=tta)
    found = predictor.probabilities([image])
    torch.testing.assert_close(found, mean, rtol=1e-4, atol=1e-5)
    assert found.dtype == torch.float32
    maps, sure = predictor.confident([image])
    torch.testing.assert_close(torch.from_numpy(sure), found.amax(1))
    assert (maps == found.argmax(1).numpy()).mean() == 1
    assert (predictor.predict_batch([image]) == maps).all()


def test_what_is_resized_is_the_picture_without_padding():
    seen = []

    class Spy(RedDecides):
        def forward(self, images):
            seen.append(images.clone())
            return super().forward(images)

    image = blocks(0, 50, 30)
    Predictor(Spy(), SPACE, size=(32, 40), tta=TTA(scales=(0.5, 2.0))).predict(image)
    assert [tuple(s.shape[2:]) for s in seen] == [(16, 20)] * 2 + [(64, 80)] * 2
    assert torch.equal(seen[0], seen[1].flip(-1))
    assert torch.equal(seen[2], seen[3].flip(-1))


def test_confidence_without_tta_is_that_of_the_softmax():
    predictor = Predictor(RedDecides(), SPACE)
    images = [photo(seed, 21, 34) for seed in range(2)]
    maps, sure = predictor.confident(images, (42, 50))
    expected = predictor.logits(images, (42, 50)).softmax(1)
    assert maps.shape == (2, 42, 50) and maps.dtype == np.uint8
    np.testing.assert_allclose(sure, expected.amax(1).numpy(), atol=1e-4)
    assert (maps == predictor.predict_batch(images, (42, 50))).all()
    found = predictor.probabilities(images, (42, 50))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_views_are_the_product_and_have_names():
    names = [view.name for view in TTA(scales=(1.0, 1.25)).views()]
    assert names == ["1x", "1x flipped", "1.25x", "1.25x flipped"]
    assert TTA(flip=False, scales=(0.5,)).views() == (View(0.5),)
    assert Predictor(RedDecides(), SPACE).views == (PLAIN,)


@pytest.mark.parametrize("scales", [(), (0.0,), (-1.0,), (1.0, 1.0), (float("nan"),), (100.0,)])
def test_odd_scales_are_refused(scales):
    with pytest.raises(UsageError, match="scales"):
        TTA(scales=scales)


def test_weights_are_shared_and_the_first_predictor_keeps_its_views():
    plain = Predictor(RedDecides(), SPACE)
    other = plain.with_tta(TTA())
    assert plain.tta is None and other.backend is plain.backend
    assert other.with_tta(None).views == (PLAIN,)
