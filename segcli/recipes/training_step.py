"""One optimiser step: forward and backward, part by part; agreement of all processes; update."""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor, nn

from segcli import distributed
from segcli.losses.supervised import SOFTMAX_TERMS
from segcli.optim.optimizers import schedule_factor, set_lr
from segcli.recipes.training import Stage, Training, parts_of, step_losses
from segcli.recipes.training_guard import StopRequest


def train_step(
    run: Training, images: Tensor, target: Tensor, stage: Stage, stop: StopRequest
) -> tuple[dict[str, float], bool]:
    """One optimiser step on uint8 (N, 3, h, w) and its target.

    Returns:
        The named losses, means over all processes, and whether the step was taken: it is
        skipped, everywhere, when loss or gradient is not finite.
    """
    settings = run.config.train.optimizer
    if run.step == stage.first_step:
        run.average.restart()
    factor = stage.config.lr_scale * schedule_factor(
        run.step,
        run.total_steps,
        schedule=settings.schedule,
        power=settings.power,
        warmup=settings.warmup,
    )
    rates = set_lr(run.optimizer, factor)
    run.optimizer.zero_grad(set_to_none=True)
    images = images.to(run.device, non_blocking=True)
    # Convolutions go by the layout of what comes in, and the loader's is always channels-last.
    images = images.contiguous(memory_format=run.precision.memory_format)
    target = target.to(run.device, non_blocking=True)
    measured = {} if run.teaching is None else run.teaching.begin(run, images, target)
    losses = _backward(run, images, target, stage.config.accumulate)
    norm = _gradient_norm(run, settings.clip_norm)
    # One transfer for all of them: each would wait for the device by itself.
    values, finite = _agree(run, [*losses.values(), norm], stop)
    if finite:
        scale = run.scaler.get_scale() if run.scaler.is_enabled() else 1.0
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.average.update(run.model)
        # A scaler that still skips steps at a scale below 1 has lost the numbers for good.
        finite = not run.scaler.is_enabled() or run.scaler.get_scale() >= min(scale, 1.0)
    elif run.scaler.is_enabled() and settings.clip_norm > 0:
        run.scaler.update()  # it has unscaled the gradient, and expects this
    named = dict(zip(losses, values, strict=False))
    if run.teaching is not None:
        run.teaching.finish(run, finite, named)
    return {**named, **measured, **{f"lr/{k}": v for k, v in rates.items()}}, finite


def _backward(run: Training, images: Tensor, target: Tensor, parts: int) -> dict[str, Tensor]:
    """Add up the gradient of the batch, part by part; returns the named losses, detached."""
    network = run.network if run.network is not None else run.model
    cut = parts_of(run, images, target, parts)
    shares = _shares(run, [labels for _, labels in cut])
    total: dict[str, Tensor] = {}
    for number, ((views, labels), share) in enumerate(zip(cut, shares, strict=True)):
        # Dropout draws from a stream of this step and place, so that a resumed run is exact.
        place = number * run.world.size + run.world.rank
        torch.manual_seed((run.config.train.seed * 1_000_003 + run.step + 7919 * place) % 2**31)
        with _unsynced(network, number + 1 < len(cut)):
            losses = _weighed(step_losses(run, network, views, labels), share, len(cut))
            run.scaler.scale(losses["total"]).backward()  # type: ignore[no-untyped-call]
        for name, value in losses.items():
            value = value.detach()
            total[name] = total[name] + value if name in total else value
    return total


def _weighed(losses: dict[str, Tensor], share: Tensor | None, parts: int) -> dict[str, Tensor]:
    """Losses as parts of the whole batch's, those that a teacher adds in their total."""
    taught = losses.pop("taught", None)
    if share is not None:
        # Labelled pixels are shared out unevenly; a teacher's figures have seen to that themselves.
        losses = {k: v / parts if "/" in k else v * share for k, v in losses.items()}
    if taught is not None:
        losses["total"] = losses["total"] + taught / parts
    return losses


def _shares(run: Training, targets: list[Tensor]) -> list[Tensor] | list[None]:
    """Each part's share of what the loss is a mean over, so that parts add up to the whole.

    Those are the valid pixels, weighted as the softmax losses weigh them. Dice and Lovász are
    no means over pixels: by themselves they look at each part alike.
    """
    if len(targets) == 1:
        return [None]
    ignore = run.loss.ignore_index
    if run.teaching is not None:
        targets = [run.teaching.labels(run, target) for target in targets]
    if run.loss.terms.keys() <= {"dice", "lovasz"}:
        return [torch.full((), 1 / len(targets), device=run.device) for _ in targets]
    weight = run.loss.class_weights if run.loss.terms.keys() & SOFTMAX_TERMS else None
    if weight is not None and targets[0].ndim == 4:
        counts = [(t.sum((0, 2, 3), dtype=torch.float64) * weight).sum() for t in targets]
    elif weight is not None:
        known = [t.long().where(t != ignore, 0) for t in targets]
        counts = [
            weight[k].where(t != ignore, 0.0).sum() for k, t in zip(known, targets, strict=True)
        ]
    else:
        counts = [(t != ignore).sum() if t.ndim == 3 else t.sum() for t in targets]
    count = distributed.add_up(run.world, torch.stack(counts).double())
    return list((count / count.sum().clamp(min=1)).float())


def _unsynced(network: nn.Module, more: bool) -> contextlib.AbstractContextManager[None]:
    """Leave the exchange of gradients to the last part of a batch."""
    if more and isinstance(network, nn.parallel.DistributedDataParallel):
        return network.no_sync()
    return contextlib.nullcontext()


def _gradient_norm(run: Training, largest: float) -> Tensor:
    """The norm of the whole gradient, which is cut to `largest` where that is above 0."""
    if largest > 0:
        run.scaler.unscale_(run.optimizer)
        return nn.utils.clip_grad_norm_(run.model.parameters(), largest)
    if run.scaler.is_enabled():
        return torch.zeros((), device=run.device)  # the scaler skips what overflows
    return nn.utils.get_total_norm([p.grad for p in run.model.parameters() if p.grad is not None])


def _agree(run: Training, values: list[Tensor], stop: StopRequest) -> tuple[list[float], bool]:
    """(means of `values` over all ranks, whether all are finite); a signal reaches every rank."""
    row = torch.stack([value.detach().float() for value in values])
    if run.world.size > 1:
        news = torch.tensor([stop.heard], device=row.device)
        row = distributed.add_up(run.world, torch.cat([row, news])) / run.world.size
    means: list[float] = row.tolist()
    if run.world.size > 1:
        stop.settle(means.pop())
    scaled = run.scaler.is_enabled() and run.config.train.optimizer.clip_norm > 0
    # The norm of scaled gradients may overflow; the scaler then skips by itself.
    return means, all(math.isfinite(v) for v in (means[:-1] if scaled else means))
