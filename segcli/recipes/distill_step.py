"""What a teacher adds to a training step, and what learns beside the student meanwhile.

Shapes: N images, K classes, H × W pixels of the pictures, H' × W' with their padding, h × w
cells of the student's logits before their last upsampling. Fine pictures come first in a batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segcli import distributed, files
from segcli.config import Config, DistillConfig
from segcli.data.dataset import StageBatches, TrainDataset
from segcli.data.manifest import Sample
from segcli.data.mixing import UNLABELLED, Extra, MixedBatches, MixedDataset
from segcli.distributed import World
from segcli.errors import CheckpointError, ConfigError
from segcli.labels import LabelSpace
from segcli.recipes.distill_cockpit import Cockpit
from segcli.recipes.distill_lessons import Lessons, Losses
from segcli.recipes.distill_parts import part_weights, weighed
from segcli.recipes.distill_teacher import Teacher
from segcli.recipes.training import Stage, Training, stage_at, stage_transform

# Pictures of each kind on which shares of the gradient are measured.
_MEASURED = 2
# Adam's rate beside a student that SGD trains, whose own is for steps of another kind.
_ADAM_RATE = 1e-3


class Distillation:
    """Extra pictures, a teacher's losses, and a discriminator where the losses have one.

    Without a teacher it is what a control has of it: coarse labels.

    Args:
        run: just set up; its model is told to show what the losses compare.
        teacher: None for a control.
        extra: pictures that join the fine ones.
    """

    command = "segcli distill"

    def __init__(self, run: Training, teacher: Teacher | None, extra: Extra) -> None:
        self.settings = run.config.distill or DistillConfig()
        if not _is_used(self.settings, extra):
            extra = Extra()
        self.pictures = extra
        self.steps = round(run.total_steps * (1 - self.settings.fine_only)) if len(extra) else 0
        check_distillation(run.config, run.label_space, extra, run.world)
        asked = None if teacher is None else teacher.placed(run.device, run.precision)
        self.lessons = Lessons(run, asked, extra)
        self.beside = self._build_optimizer(run)
        self.cockpit = Cockpit(run.reporter)
        self._live = False
        self._parts: list[dict[str, Tensor]] = []
        self._scale = 1.0

    @property
    def extra(self) -> Sequence[Sample]:
        return self.pictures.samples

    def _build_optimizer(self, run: Training) -> torch.optim.Optimizer | None:
        groups = []
        if self.lessons.loss.holistic is not None:
            critic = list(self.lessons.loss.holistic.parameters())
            lr = self.settings.discriminator.lr
            groups.append({"params": critic, "lr": lr, "name": "discriminator"})
        if adapter := self.lessons.loss.student_parameters():
            groups.append({"params": adapter, "lr": 0.0, "name": "adapter"})
        # The betas of SAGAN (arXiv 1805.08318): momentum makes the two sides chase each other.
        return torch.optim.Adam(groups, betas=(0.0, 0.9)) if groups else None

    # --- data --------------------------------------------------------------------------------

    def stage_data(self, run: Training, stage: Stage) -> tuple[TrainDataset, StageBatches]:
        """The views of a stage, fine and extra, from where the run stands to its end."""
        data, seed = run.config.data, run.config.train.seed
        dataset = MixedDataset(
            run.samples,
            self.pictures,
            stage_transform(run.config, stage.config, run.label_space.ignore_index),
            void=self.settings.void,
            seed=seed,
            num_classes=run.label_space.num_classes,
            soft_targets=data.soft_targets,
            packed=data.packed,
            log=run.log,
        )
        place = {
            "epochs": stage.config.epochs,
            "first_epoch": stage.first_epoch,
            "seed": seed,
            "start": max(0, run.step - stage.first_step),
            "rank": run.world.rank,
            "world": run.world.size,
        }
        size = stage.config.batch_size
        if not self._mixes(stage):
            return dataset, StageBatches(len(run.samples), size, **place)
        before = [s for s in run.stages if s.first_step < stage.first_step]
        drawn = sum((s.end_step - s.first_step) * s.config.batch_size for s in before)
        batches = MixedBatches(
            len(run.samples),
            size,
            extra=len(self.pictures),
            drawn=drawn,
            until=self.steps - stage.first_step,
            **place,
        )
        return dataset, batches

    def _mixes(self, stage: Stage) -> bool:
        return stage.first_step < self.steps

    def cut(self, run: Training, images: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
        """A batch in its stage's parts; each has fine pictures first, like the whole."""
        parts = stage_at(run).config.accumulate
        self._parts = []
        if parts == 1 or run.step >= self.steps:
            cut = list(zip(images.chunk(parts), target.chunk(parts), strict=True))
        else:
            halves = [x.chunk(parts) for x in (*images.chunk(2), *target.chunk(2))]
            cut = [
                (torch.cat([fine, more]), torch.cat([fine_labels, labels]))
                for fine, more, fine_labels, labels in zip(*halves, strict=True)
            ]
        if parts > 1 and self._live:
            cells = [
                self.lessons.cells(run, views, labels, fine=self._fine(run, len(views)))
                for views, labels in cut
            ]
            classes = run.loss.class_weights
            self._parts = part_weights(run.world, cells, self.lessons.ignore, classes)
        return cut

    def labels(self, run: Training, target: Tensor) -> Tensor:
        """What the supervised loss sees: labels of fine pictures, and what is ignored."""
        return self.lessons.labels(target[: self._fine(run, len(target))])

    # --- step --------------------------------------------------------------------------------

    def begin(self, run: Training, images: Tensor, target: Tensor) -> dict[str, float]:
        """Forget old gradients; every so many steps measure each loss's share of the new one."""
        if self.beside is not None:
            self.beside.zero_grad(set_to_none=True)
            self._scale = run.scaler.get_scale() if run.scaler.is_enabled() else 1.0
        every = self.settings.measure_every
        shares = {}
        if every and run.step % every == 0 and (self.lessons.loss.weights or len(self.pictures)):
            fine = self._fine(run, len(images))
            some = [*range(min(fine, _MEASURED)), *range(fine, len(images))[:_MEASURED]]
            shares = self._shares(run, images[some], target[some], min(fine, _MEASURED))
            self.cockpit.note_shares(shares, run.step)
        self._live = True
        return {f"share/{name}": value for name, value in shares.items()}

    def losses(self, run: Training, network: nn.Module, images: Tensor, target: Tensor) -> Losses:
        """Named losses of a part; ``taught`` is the weighted sum of all but the supervised."""
        fine = self._fine(run, len(images))
        base, weighted, figures = self.lessons.give(
            run, network, images, target, fine=fine, live=self._live
        )
        if self._parts:
            holds = self._parts.pop(0)
            weighted, figures = weighed(weighted, holds), weighed(figures, holds)
        named = {**base, **figures}
        if weighted:
            named["taught"] = torch.stack(list(weighted.values())).sum()
        return named

    def _fine(self, run: Training, count: int) -> int:
        """How many of `count` pictures, of a batch or a part of one, are fine."""
        return count // 2 if run.step < self.steps else count

    def finish(self, run: Training, finite: bool, figures: dict[str, float]) -> None:
        """Let discriminator and adapter take their step, as the student has taken its own."""
        self._live = False
        if finite:
            self.cockpit.note_step(figures)
        if self.beside is None or not finite:
            return
        for group in self.beside.param_groups:
            for gradient in (p.grad for p in group["params"] if p.grad is not None):
                distributed.add_up(run.world, gradient).div_(run.world.size)
            if group["name"] == "adapter":
                self._as_the_decoder(run, group)
        self.beside.step()

    def _as_the_decoder(self, run: Training, group: dict[str, Any]) -> None:
        """Of the adapter, a part of the student: its rate follows the schedule of the decoder's.

        Its gradient comes with the student's, scaled in fp16; what has overflowed is dropped.
        """
        settings = run.config.train.optimizer
        rates = {g["name"]: g["lr"] for g in run.optimizer.param_groups}
        usual = settings.lr if settings.name == "adamw" else _ADAM_RATE
        group["lr"] = usual * rates["decoder"] / settings.lr
        if self._scale != 1.0:
            gradients = [p.grad for p in group["params"] if p.grad is not None]
            if all(bool(g.isfinite().all()) for g in gradients):
                torch._foreach_div_(gradients, self._scale)
            else:
                for parameter in group["params"]:
                    parameter.grad = None

    # --- measurements ------------------------------------------------------------------------

    def _shares(self, run: Training, images: Tensor, target: Tensor, fine: int) -> dict[str, float]:
        """Share of each loss in the sum of all their gradients' norms, of a few pictures."""
        kept = [buffer.clone() for buffer in run.model.buffers()]
        with run.precision.autocast(run.device):
            base, weighted, _ = self.lessons.give(
                run, run.model, images, target, fine=fine, live=False
            )
        learnt = [p for p in run.model.parameters() if p.requires_grad]
        norms = []
        for value in (base["total"], *weighted.values()):
            slopes = torch.autograd.grad(value, learnt, retain_graph=True, allow_unused=True)
            norms.append(nn.utils.get_total_norm([s for s in slopes if s is not None]))
        with torch.no_grad():
            for buffer, before in zip(run.model.buffers(), kept, strict=True):
                buffer.copy_(before)
        row = distributed.add_up(run.world, torch.stack(norms).float())
        values = (row / row.sum().clamp(min=1e-30)).tolist()
        return dict(zip(("supervised", *weighted), values, strict=True))

    def epoch_done(self, run: Training) -> None:
        """Say what each loss is and weighs, and how student and discriminator fare."""
        self.cockpit.report(run.step)

    # --- resuming ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Which teacher, and the discriminator and adapter with their optimiser."""
        return {
            "teacher": "" if self.lessons.teacher is None else self.lessons.teacher.digest,
            "loss": self.lessons.loss.state_dict(),
            "optimizer": {} if self.beside is None else self.beside.state_dict(),
            "extra_pictures": self._extra_digest(),
        }

    def _extra_digest(self) -> str:
        """Of what the order of extra pictures follows from: which they are, and until when."""
        pictures = [[s.id, *s.size, s.image.stat().st_size] for s in self.extra]
        value = [pictures, self.pictures.coarse, self.steps]
        return files.sha256_bytes(json.dumps(value).encode())

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        """Go on from `state_dict`.

        Raises:
            CheckpointError: another teacher, other extra pictures, or other losses.
        """
        own = self.state_dict()
        if state["teacher"] != own["teacher"]:
            hint = "give that one with --teacher, or start anew"
            raise CheckpointError("was trained by another teacher", file=path, hint=hint)
        if state.get("extra_pictures", own["extra_pictures"]) != own["extra_pictures"]:
            hint = "distill.coarse, unlabelled and fine_only have to be as they were; or start anew"
            raise CheckpointError("was trained with other extra pictures", file=path, hint=hint)
        try:
            self.lessons.loss.load_state_dict(state["loss"])
            if self.beside is not None:
                self.beside.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            text = " ".join(str(error).split())[:160]
            raise CheckpointError(f"has other losses than the config ({text})", file=path) from None


def _is_used(settings: DistillConfig, extra: Extra) -> bool:
    """Whether any loss looks at extra pictures; batch norm would, all the same."""
    return any(settings.losses.values()) or bool(extra.coarse and settings.coarse_weight)


def check_distillation(config: Config, space: LabelSpace, extra: Extra, world: World) -> None:
    """What does not go together.

    Raises:
        ConfigError: naming the keys.
    """
    settings = config.distill or DistillConfig()
    if config.data.soft_targets and len(extra) and _is_used(settings, extra):
        hint = "data.soft_targets=false, or 'distill.coarse=[]' and 'distill.unlabelled=[]'"
        raise ConfigError("extra pictures have no soft targets", hint=hint)
    if config.data.soft_targets and settings.void:
        raise ConfigError("distill.void is for labels, not for data.soft_targets")
    if space.num_classes > UNLABELLED:
        raise ConfigError(f"distillation takes at most {UNLABELLED} classes")
    for number, stage in enumerate(config.train.stages):
        if stage.batch_size // world.size % stage.accumulate:
            what = f"train.stages.{number}.accumulate does not divide each process's pictures"
            raise ConfigError(what)
