"""The two sides of `train_step.py`: a training step each, and what must be equal between them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli.losses.supervised import SegmentationLoss
from segcli.models.build import build_model, parameter_groups
from segcli.models.encoders import IMAGENET_MEAN, IMAGENET_STD
from segcli.models.grouped import GroupedConv
from segcli.models.segmenter import Segmenter
from segcli.optim.optimizers import build_optimizer, set_lr

WIDTH, HEAD_WIDTH, DROPOUT = 256, 128, 0.2  # smp.FPN's own
IGNORED = 255
RATE, WEIGHT_DECAY = 3e-4, 0.01
Lap = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Work:
    """What every side is asked to do; `weights` is a file with torchvision's keys."""

    encoder: str
    batch: int
    size: tuple[int, int]
    classes: int
    cores: int
    device: str
    weights: str | None = None
    seed: int = 0


def no_lap(_: str) -> AbstractContextManager[None]:
    """Nothing is measured inside the step."""
    return nullcontext()


def segcli_network(work: Work, *, levels: bool = False) -> Segmenter:
    """In training mode; with `levels`, it predicts at every level too, as `segcli train` has it."""
    torch.manual_seed(work.seed)
    return build_model(
        encoder=work.encoder,
        decoder="fpn",
        num_classes=work.classes,
        width=WIDTH,
        head_width=HEAD_WIDTH,
        dropout=DROPOUT,
        auxiliary=levels,
        encoder_weights=work.weights,
    ).train()


def smp_network(work: Work) -> nn.Module:
    """In training mode, with the encoder's weights of `segcli_network`."""
    torch.manual_seed(work.seed)
    network: nn.Module = smp.FPN(
        work.encoder,
        encoder_weights=None,
        classes=work.classes,
        decoder_pyramid_channels=WIDTH,
        decoder_segmentation_channels=HEAD_WIDTH,
        decoder_dropout=DROPOUT,
    )
    # Both hold torchvision's tensors in torchvision's order, under names of their own.
    ours = segcli_network(work).encoder.state_dict().values()
    theirs = network.encoder.state_dict().values()  # type: ignore[union-attr, operator]
    for target, source in zip(theirs, ours, strict=True):
        target.copy_(source)
    return network.train()


class SmpStep:
    """As a careful user writes it; on CUDA, bf16 comes with torch.compile."""

    def __init__(self, work: Work, *, bf16: bool) -> None:
        self.device, self.bf16 = torch.device(work.device), bf16
        self.layout = torch.channels_last if bf16 else torch.contiguous_format
        self.network = smp_network(work).to(self.device, memory_format=self.layout)
        compiled = bf16 and self.device.type == "cuda"
        self.forward: Any = torch.compile(self.network) if compiled else self.network
        self.loss = nn.CrossEntropyLoss(ignore_index=IGNORED)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY
        )
        self.mean = torch.tensor(IMAGENET_MEAN, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(IMAGENET_STD, device=self.device).view(1, 3, 1, 1)

    def normalise(self, images: Tensor) -> Tensor:
        return (images.float() / 255 - self.mean) / self.std

    def __call__(self, images: Tensor, target: Tensor, lap: Lap = no_lap) -> Tensor:
        """The loss of uint8 (N, 3, H, W) against uint8 (N, H, W), then new weights."""
        with lap("outside"):
            images = images.to(self.device, memory_format=self.layout, non_blocking=True)
            target = target.to(self.device, non_blocking=True)
            x, labels = self.normalise(images), target.long()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            with lap("network"):
                logits = self.forward(x)
            with lap("outside"):
                loss: Tensor = self.loss(logits, labels)
                self.optimizer.zero_grad()
        with lap("network"):
            loss.backward()  # type: ignore[no-untyped-call]
        with lap("outside"):
            self.optimizer.step()
        return loss.detach()


class SegcliStep:
    """The parts that `segcli train` calls; on CUDA with torch.compile."""

    def __init__(self, work: Work, *, levels: bool) -> None:
        self.device, self.layout = torch.device(work.device), torch.channels_last
        self.network = segcli_network(work, levels=levels).to(
            self.device, memory_format=self.layout
        )
        compiled = self.device.type == "cuda"
        self.forward: Any = torch.compile(self.network) if compiled else self.network
        self.loss = SegmentationLoss(ignore_index=IGNORED).to(self.device)
        if compiled:
            self.loss.compile()
        self.optimizer = build_optimizer(
            parameter_groups(self.network),
            name="adamw",
            lr=RATE,
            encoder_lr_factor=1.0,
            weight_decay=WEIGHT_DECAY,
            momentum=0.9,
        )
        set_lr(self.optimizer, 1.0)

    def __call__(self, images: Tensor, target: Tensor, lap: Lap = no_lap) -> Tensor:
        """As `SmpStep`; returns the loss of the merged prediction, without the levels'."""
        with lap("outside"):
            images = images.to(self.device, memory_format=self.layout, non_blocking=True)
            target = target.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16):
            with lap("network"):  # it normalises as well
                output = self.forward(images)
            with lap("outside"):
                losses = self.loss(output.logits, output.auxiliary, target, output.padded)
                self.optimizer.zero_grad(set_to_none=True)
        with lap("network"):
            losses["total"].backward()
        with lap("outside"):
            self.optimizer.step()
        return losses["segmentation"].detach()


def build_step(side: str, work: Work) -> SmpStep | SegcliStep:
    """`smp fp32`, `smp bf16`, `segcli` or `segcli levels`."""
    if side.startswith("segcli"):
        return SegcliStep(work, levels=side == "segcli levels")
    return SmpStep(work, bf16=side == "smp bf16")


def random_batch(work: Work) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 3, H, W) and labels uint8 (N, H, W) in blocks, one in twelve ignored.

    For CUDA in pinned memory, as a loader has them.
    """
    generator = torch.Generator().manual_seed(0)
    h, w = work.size
    images = torch.randint(0, 256, (work.batch, 3, h, w), dtype=torch.uint8, generator=generator)
    blocks = torch.randint(0, work.classes + 1, (work.batch, 11, 15), generator=generator)
    blocks[blocks == work.classes] = IGNORED
    target = F.interpolate(blocks[:, None].float(), size=(h, w))[:, 0].to(torch.uint8)
    if work.device.startswith("cuda"):
        return images.pin_memory(), target.pin_memory()
    return images, target


# --- what must be equal --------------------------------------------------------------------


def check_equal(work: Work) -> str:
    """Compare both sides in float32 on small pictures; one line that says what was equal.

    Raises:
        AssertionError: naming the first tensors that differ.
    """
    images, target = random_batch(Work(**{**vars(work), "batch": 2, "size": (64, 96)}))
    ours, theirs = segcli_network(work, levels=True), smp_network(work)
    step = SmpStep(Work(**{**vars(work), "device": "cpu"}), bf16=False)
    x = ours.normalise(images)
    torch.testing.assert_close(x, step.normalise(images), atol=1e-5, rtol=1e-5)
    features = theirs.encoder(x)[-4:]  # type: ignore[operator]
    torch.testing.assert_close(ours.encoder(x)[-4:], features)
    logits, levels = ours(images)[:2]
    assert logits.shape == theirs(x).shape, "shapes of logits"
    loss = SegmentationLoss(ignore_index=IGNORED)(logits, {}, target)["total"]
    torch.testing.assert_close(loss, step.loss(logits, target.long()))
    _check_short_cuts(ours, features)
    encoder, mine, its = (
        sum(p.numel() for p in m.parameters()) / 1e6
        for m in (ours.encoder, ours.decoder, theirs.decoder)  # type: ignore[union-attr]
    )
    return (
        f"equal: normalised pictures, {encoder:.2f} M parameters and the features of the encoder, "
        f"shapes of logits, the loss, short cuts; decoders {mine:.2f} M (segcli, {len(levels)} "
        f"auxiliary heads), {its:.2f} M (smp)"
    )


def _check_short_cuts(network: Segmenter, features: list[Tensor]) -> None:
    """The pyramid with and without the split of p2; joined groups against plain ones."""
    decoder = network.decoder
    outputs = []
    for splits in (True, False):
        chosen, decoder.splits_p2 = decoder.splits_p2, splits  # type: ignore[assignment]
        torch.manual_seed(0)  # of dropout
        outputs.append(decoder([f.detach() for f in features]))
        decoder.splits_p2 = chosen  # type: ignore[assignment]
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-3)
    x = torch.randn(2, 32, 9, 11, requires_grad=True)
    weight = torch.randn(32, 4, 3, 3, requires_grad=True)
    both = F.conv2d(x, weight, padding=1, groups=8), GroupedConv.apply(x, weight, 1, 4)
    one, other = (torch.autograd.grad(y.square().sum(), (x, weight)) for y in both)
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)
