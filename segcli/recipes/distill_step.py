"""What a teacher adds to a training step, and what learns beside the student meanwhile.

Shapes: N images, K classes, H × W pixels of the pictures, H' × W' with their padding, h × w
cells of the student's logits before their last upsampling. Fine pictures come first in a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcli import distributed
from segcli.config import DistillConfig
from segcli.data.dataset import StageBatches, TrainDataset
from segcli.data.manifest import Sample
from segcli.data.mixing import UNLABELLED, Extra, MixedBatches, MixedDataset
from segcli.errors import CheckpointError, ConfigError
from segcli.losses.cross_entropy import cross_entropy
from segcli.losses.distillation import DistillationLoss
from segcli.losses.targets import shrink_target
from segcli.models.discriminator import Discriminator
from segcli.models.segmenter import StrideOutput, TrainingOutput
from segcli.recipes.distill_cockpit import Cockpit
from segcli.recipes.distill_teacher import Teacher
from segcli.recipes.training import Stage, Training, stage_at, stage_transform

# Pictures of each kind on which shares of the gradient are measured.
_MEASURED = 2
Losses = dict[str, Tensor]


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
        self.teacher = None if teacher is None else teacher.placed(run.device, run.precision)
        self.pictures = extra
        self.ignore = run.label_space.ignore_index
        self.steps = round(run.total_steps * (1 - self.settings.fine_only)) if len(extra) else 0
        _check(run, extra)
        run.model.shows_coarse = True
        self.loss = self._build_loss(run)
        self.beside = self._build_optimizer(run)
        self.cockpit = Cockpit(run.reporter)
        self._live = False

    @property
    def extra(self) -> Sequence[Sample]:
        return self.pictures.samples

    def _build_loss(self, run: Training) -> DistillationLoss:
        s, classes = self.settings, run.label_space.num_classes
        weights = {} if self.teacher is None else s.losses
        # Random weights of their own, so that the student's stay what they would be.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.config.train.seed + 1)
            critic = Discriminator(classes, s.discriminator.width)
            loss = DistillationLoss(
                weights,
                temperature={"pixel": s.pixel_temperature, "channel": s.channel_temperature},
                ignore_index=self.ignore,
                student_channels=_width(run.model),
                teacher_channels=_width(self.teacher.model) if self.teacher else None,
                discriminator=critic,
                adversary=s.discriminator.loss,
                count_over=run.loss.count_over,
            )
        return loss.to(run.device).train()

    def _build_optimizer(self, run: Training) -> torch.optim.Optimizer | None:
        groups = []
        if self.loss.holistic is not None:
            critic = list(self.loss.holistic.parameters())
            groups.append({"params": critic, "lr": self.settings.discriminator.lr})
        if adapter := self.loss.student_parameters():
            groups.append({"params": adapter, "lr": run.config.train.optimizer.lr})
        # The betas of SAGAN (arXiv 1805.08318): momentum makes the two sides chase each other.
        return torch.optim.Adam(groups, betas=(0.0, 0.9)) if groups else None

    # --- data --------------------------------------------------------------------------------

    def stage_data(self, run: Training, stage: Stage) -> tuple[TrainDataset, StageBatches]:
        """The views of a stage, fine and extra, from where the run stands to its end."""
        data, seed = run.config.data, run.config.train.seed
        dataset = MixedDataset(
            run.samples,
            self.pictures,
            stage_transform(run.config, stage.config, self.ignore),
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
        if parts == 1 or run.step >= self.steps:
            return list(zip(images.chunk(parts), target.chunk(parts), strict=True))
        halves = [x.chunk(parts) for x in (*images.chunk(2), *target.chunk(2))]
        return [
            (torch.cat([fine, more]), torch.cat([fine_labels, labels]))
            for fine, more, fine_labels, labels in zip(*halves, strict=True)
        ]

    def labels(self, target: Tensor) -> Tensor:
        """What the supervised loss sees: labels of fine pictures, and what is ignored."""
        return target if target.ndim == 4 else target.masked_fill(target == UNLABELLED, self.ignore)

    # --- step --------------------------------------------------------------------------------

    def begin(self, run: Training, images: Tensor, target: Tensor) -> dict[str, float]:
        """Forget old gradients; every so many steps measure each loss's share of the new one."""
        if self.beside is not None:
            self.beside.zero_grad(set_to_none=True)
        every = self.settings.measure_every
        shares = {}
        if every and run.step % every == 0 and (self.loss.weights or len(self.pictures)):
            fine = self._fine(run, len(images), 1)
            some = [*range(min(fine, _MEASURED)), *range(fine, len(images))[:_MEASURED]]
            shares = self._shares(run, images[some], target[some], min(fine, _MEASURED))
            self.cockpit.note_shares(shares, run.step)
        self._live = True
        return {f"share/{name}": value for name, value in shares.items()}

    def losses(self, run: Training, network: nn.Module, images: Tensor, target: Tensor) -> Losses:
        """Named losses of a part; ``taught`` is the weighted sum of all but the supervised."""
        fine = self._fine(run, len(images), stage_at(run).config.accumulate)
        base, weighted, figures = self._all(run, network, images, target, fine)
        named = {**base, **figures}
        if weighted:
            named["taught"] = torch.stack(list(weighted.values())).sum()
        if self._live:
            self.cockpit.note_step(named)
        return named

    def _fine(self, run: Training, count: int, parts: int) -> int:
        """How many of `count` pictures of a part are fine."""
        return count // 2 if run.step < self.steps else count

    def _all(
        self, run: Training, network: nn.Module, images: Tensor, target: Tensor, fine: int
    ) -> tuple[Losses, Losses, Losses]:
        """(supervised losses of the fine pictures, what is added, weighted; figures to log)."""
        output: TrainingOutput = network(images)
        with torch.autocast(images.device.type, enabled=False):
            base = run.loss(
                output.logits[:fine],
                {name: level[:fine] for name, level in output.auxiliary.items()},
                self.labels(target[:fine]),
            )
            student = output.coarse
            if student is None:
                raise ValueError("the student's network does not show its coarse logits")
            logits = student.logits.float()
            taught, weighted, figures = None, {}, {}
            if self.loss.weights or (self.teacher is not None and self.pictures.coarse):
                taught = self._ask(images, logits)
            padded = _padded(target, images, student.padded_size, self.ignore)
            if taught is not None and self.loss.weights:
                weighted, figures = self._taught(run, student, taught, images, padded)
            if fine < len(images) and self.pictures.coarse and self.settings.coarse_weight:
                said = None if taught is None else taught.logits[fine:]
                loss, more = self._coarse(run, logits[fine:], said, padded[fine:])
                weighted["coarse"] = self.settings.coarse_weight * loss
                figures.update(more)
        return base, weighted, figures

    def _ask(self, images: Tensor, logits: Tensor) -> StrideOutput:
        """The teacher's answer on the same views, its logits in the student's cells."""
        assert self.teacher is not None
        answer = self.teacher(images)
        if answer.logits.shape[-2:] == logits.shape[-2:]:
            return answer
        size = (logits.shape[-2], logits.shape[-1])
        wide = F.interpolate(answer.logits.float(), size, mode="bilinear", align_corners=False)
        return answer._replace(logits=wide)

    def _taught(
        self,
        run: Training,
        student: StrideOutput,
        taught: StrideOutput,
        images: Tensor,
        target: Tensor,
    ) -> tuple[Losses, Losses]:
        """(weighted losses, figures) of all views, without what is ignored."""
        known = target.sum(1) > 0 if target.ndim == 4 else target != self.ignore
        valid = self.loss.mask(known, student.logits.shape[-2:], None)
        images = _pad(images, student.padded_size, 0)
        terms = self.loss(
            student.logits, taught.logits, valid, student.features, taught.features, images
        )
        terms.pop("total")
        weighted = {name: self.loss.weights[name] * value for name, value in terms.items()}
        with torch.no_grad():
            same = student.logits.max(1).indices == taught.logits.max(1).indices
            agreement = (same & valid).sum() / valid.sum().clamp(min=1)
        figures = {f"distill/{name}": value for name, value in terms.items()}
        figures["distill/agreement"] = agreement
        if self.loss.holistic is not None:
            figures.update(self._criticise(run, student.logits, taught.logits, images, valid))
        return weighted, figures

    def _criticise(
        self, run: Training, student: Tensor, teacher: Tensor, images: Tensor, valid: Tensor
    ) -> Losses:
        """The discriminator's side of the game; its gradient waits for `finish`."""
        assert self.loss.holistic is not None
        critic = self.loss.holistic
        if not self._live:
            critic = copy.deepcopy(critic)  # a measurement leaves it where it stands
        terms = critic.discriminator_term(student, teacher, images, valid)
        parts = stage_at(run).config.accumulate
        (terms["total"] / parts).backward()  # type: ignore[no-untyped-call]
        return {f"discriminator/{'loss' if k == 'total' else k}": v for k, v in terms.items()}

    def _coarse(
        self, run: Training, logits: Tensor, said: Tensor | None, target: Tensor
    ) -> tuple[Tensor, Losses]:
        """Cross-entropy against coarse labels, but where a confident teacher says otherwise."""
        labels = shrink_target(target, logits.shape[-2:])
        labelled = (labels != UNLABELLED) & (labels != self.ignore)
        figures = {}
        kept = labelled
        if said is not None:
            sure, says = torch.softmax(said.float(), 1).max(1)
            differs = labelled & (says != labels)
            kept = labelled & ~(differs & (sure >= self.settings.overrule))
            count = labelled.sum().clamp(min=1)
            figures["coarse/agreement"] = 1 - differs.sum() / count
            figures["coarse/overruled"] = (labelled & ~kept).sum() / count
        loss = cross_entropy(
            logits,
            labels.masked_fill(~kept, self.ignore),
            ignore_index=self.ignore,
            weight=run.loss.class_weights,
            count_over=run.loss.count_over,
        )
        return loss, {"coarse/cross_entropy": loss, **figures}

    def finish(self, run: Training, finite: bool) -> None:
        """Let discriminator and adapter take their step, as the student has taken its own."""
        self._live = False
        if self.beside is None or not finite:
            return
        parameters = [p for g in self.beside.param_groups for p in g["params"]]
        for gradient in (p.grad for p in parameters if p.grad is not None):
            distributed.add_up(run.world, gradient).div_(run.world.size)
        self.beside.step()

    # --- measurements ------------------------------------------------------------------------

    def _shares(self, run: Training, images: Tensor, target: Tensor, fine: int) -> dict[str, float]:
        """Share of each loss in the sum of all their gradients' norms, of a few pictures."""
        kept = [buffer.clone() for buffer in run.model.buffers()]
        with run.precision.autocast(run.device):
            base, weighted, _ = self._all(run, run.model, images, target, fine)
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
            "teacher": "" if self.teacher is None else self.teacher.digest,
            "loss": self.loss.state_dict(),
            "optimizer": {} if self.beside is None else self.beside.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        """Go on from `state_dict`.

        Raises:
            CheckpointError: another teacher, or other losses.
        """
        if state["teacher"] != self.state_dict()["teacher"]:
            hint = "give that one with --teacher, or start anew"
            raise CheckpointError("was trained by another teacher", file=path, hint=hint)
        try:
            self.loss.load_state_dict(state["loss"])
            if self.beside is not None:
                self.beside.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            text = " ".join(str(error).split())[:160]
            raise CheckpointError(f"has other losses than the config ({text})", file=path) from None


def _check(run: Training, extra: Extra) -> None:
    """What does not go together.

    Raises:
        ConfigError: naming the keys.
    """
    if len(extra) and run.config.data.soft_targets:
        raise ConfigError("extra pictures have no soft targets", hint="data.soft_targets=false")
    if run.label_space.num_classes > UNLABELLED:
        raise ConfigError(f"distillation takes at most {UNLABELLED} classes")
    for number, stage in enumerate(run.stages):
        if stage.config.batch_size // run.world.size % stage.config.accumulate:
            what = f"train.stages.{number}.accumulate does not divide each process's pictures"
            raise ConfigError(what)


def _width(model: nn.Module) -> int:
    """Channels of the features that a segmenter shows."""
    classifier = model.get_submodule("decoder.classifier")
    return int(classifier.in_channels)  # type: ignore[arg-type]


def _pad(x: Tensor, size: tuple[int, int], value: float) -> Tensor:
    """`x` (..., H, W) with padding on the right and at the bottom to `size`."""
    below, right = size[0] - x.shape[-2], size[1] - x.shape[-1]
    return F.pad(x, (0, right, 0, below), value=value) if right or below else x


def _padded(target: Tensor, images: Tensor, size: tuple[int, int], ignore: int) -> Tensor:
    """A target with the padding of its picture, at its own resolution."""
    (h, w), (th, tw) = images.shape[-2:], target.shape[-2:]
    wanted = (round(size[0] * th / h), round(size[1] * tw / w))
    return _pad(target, wanted, 0 if target.ndim == 4 else ignore)
