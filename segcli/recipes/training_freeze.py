"""What of the network learns in a stage, and the network as it is called for that.

Frozen layers keep their weights and the statistics of their batch norm, and a gradient stops
above them: a stage at full size whose first layers, the costly ones, are frozen costs less.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from segcli.config import TrainConfig
from segcli.models.encoders import STRIDES
from segcli.models.segmenter import Segmenter
from segcli.recipes.training import Stage, Training

# The stride of the encoder's last layers: up to it is all of it.
WHOLE = STRIDES[-1]
# Losses that are one graph; the others would be compiled anew for every class or count.
COMPILED_TERMS = frozenset({"cross_entropy", "focal"})


def freeze(run: Training, stage: Stage, epoch: int) -> None:
    """Set train mode for `epoch`, and build `network` anew where what is frozen changes."""
    frozen = frozen_stride(run.config.train, stage, epoch)
    set_train_mode(run.model, run.config.train, frozen)
    if run.network is None or frozen != run.frozen:
        run.frozen = frozen
        run.network = _network(run)


def frozen_stride(settings: TrainConfig, stage: Stage, epoch: int) -> int:
    """The stride up to which the encoder's layers are frozen in `epoch`; 0 is none of them."""
    return WHOLE if epoch < settings.freeze_encoder else stage.config.freeze_stride


def set_train_mode(model: Segmenter, settings: TrainConfig, frozen: int) -> None:
    """Train mode, but for the encoder's layers up to stride `frozen` and for frozen batch norm.

    Frozen layers keep weights and batch norm statistics; frozen batch norm is in eval mode, and
    its weight and bias stay as they are.
    """
    encoder = model.encoder
    model.train()
    encoder.requires_grad_(True)
    for layers in encoder.up_to(frozen):
        layers.eval().requires_grad_(False)
    where: dict[str, list[nn.Module]] = {"none": [], "encoder": [encoder], "all": [model]}
    for part in where[settings.freeze_batchnorm]:
        for module in part.modules():
            if isinstance(module, _BatchNorm):
                module.eval().requires_grad_(False)


def _network(run: Training) -> nn.Module:
    network: nn.Module = run.model
    on_cuda = run.device.type == "cuda"
    mode = run.config.train.compile
    if mode == "on" or (mode == "auto" and on_cuda):
        # Where nobody insists on it, a machine without a compiler trains uncompiled.
        torch._dynamo.config.suppress_errors = mode == "auto"
        network = torch.compile(network, dynamic=False)  # type: ignore[assignment]
        # The loss is many kernels that take less time than their launch, compiled a few. A
        # teacher's measurements go back through it twice, which compiled graphs refuse.
        alone = run.world.size == 1 and run.teaching is None
        if alone and run.loss.terms.keys() <= COMPILED_TERMS:
            run.loss.compile(dynamic=False)
    if run.world.size > 1:
        devices = [run.device.index or 0] if on_cuda else None
        # Channels-last gradients of 1×1 convolutions have odd strides, which is no error.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
        # Batch norm's statistics are synced on CUDA; on a CPU rank zero's are everyone's.
        network = nn.parallel.DistributedDataParallel(network, device_ids=devices)
    return network
