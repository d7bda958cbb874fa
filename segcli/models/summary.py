"""What a model is made of, and what a picture of a given size costs. Data only, no printing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segcli.models.segmenter import Segmenter


class LayerRow(NamedTuple):
    """One block of the model.

    Attributes:
        name: dotted name in the model.
        kind: class of the module.
        shape: `(N, C, H, W)` of its output at the first size; None if it did not run.
        parameters: trainable numbers in it.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int


class SizeCost(NamedTuple):
    """Cost of one picture in eval mode.

    Attributes:
        size: height and width in pixels.
        multiply_adds: of convolutions and matrix products; norms, activations and
            resizing are not counted.
        flops: twice that, as a multiply-add is two operations.
    """

    size: tuple[int, int]
    multiply_adds: int
    flops: int


class ModelSummary(NamedTuple):
    """Rows of blocks, the number of parameters in all, and the cost per size."""

    rows: tuple[LayerRow, ...]
    parameters: int
    costs: tuple[SizeCost, ...]


def model_summary(model: Segmenter, sizes: Sequence[tuple[int, int]]) -> ModelSummary:
    """Describe `model` block by block and count its work for one picture of each size.

    A picture of noughts goes through the model as it is, in eval mode; the mode is restored.

    Args:
        model: any segmenter, on any device.
        sizes: heights and widths in pixels; the first one gives the rows their shapes.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        shapes = _output_shapes(model, sizes[0]) if sizes else {}
        costs = tuple(_cost(model, size) for size in sizes)
    finally:
        for module, training in modes.items():
            module.training = training
    rows = tuple(
        LayerRow(name, type(module).__name__, shapes.get(name), _count(module))
        for name, module in _blocks(model)
    )
    return ModelSummary(rows, _count(model), costs)


def _blocks(model: Segmenter) -> list[tuple[str, nn.Module]]:
    """The children of encoder and decoder; a list or dict of modules is opened up."""
    blocks = []
    for part in ("encoder", "decoder"):
        for name, child in getattr(model, part).named_children():
            if isinstance(child, nn.ModuleList | nn.ModuleDict):
                inner = child.named_children()
                blocks += [(f"{part}.{name}.{key}", module) for key, module in inner]
            else:
                blocks.append((f"{part}.{name}", child))
    return blocks


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _run(model: Segmenter, size: tuple[int, int]) -> None:
    with torch.no_grad():
        model(torch.zeros(1, 3, *size, dtype=torch.uint8, device=model.mean.device))


def _output_shapes(model: Segmenter, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shape of what each block returned; blocks that returned no tensor are absent."""
    shapes: dict[str, tuple[int, ...]] = {}

    def recorder(name: str) -> Callable[..., None]:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                shapes[name] = tuple(output.shape)

        return record

    hooks = [m.register_forward_hook(recorder(name)) for name, m in _blocks(model)]
    try:
        _run(model, size)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _cost(model: Segmenter, size: tuple[int, int]) -> SizeCost:
    with FlopCounterMode(display=False) as counter:
        _run(model, size)
    flops = counter.get_total_flops()
    return SizeCost(size, flops // 2, flops)
