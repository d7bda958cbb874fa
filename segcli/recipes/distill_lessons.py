"""The losses of a step: supervised on fine pictures, the teacher's on all, coarse labels.

Shapes: N images, K classes, H × W pixels of the pictures, H' × W' with their padding, h × w
cells of the student's logits before their last upsampling. Fine pictures come first in a batch.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcli.config import DistillConfig
from segcli.data.mixing import UNLABELLED, Extra
from segcli.losses.cross_entropy import cross_entropy
from segcli.losses.distillation import DistillationLoss
from segcli.losses.targets import pad_target, shrink_target
from segcli.models.discriminator import Discriminator
from segcli.models.segmenter import SIZE_MULTIPLE, Segmenter, StrideOutput, TrainingOutput
from segcli.recipes.distill_parts import Cells
from segcli.recipes.distill_teacher import Teacher
from segcli.recipes.training import Training, stage_at

Losses = dict[str, Tensor]


class Lessons:
    """What a student learns from a teacher and from coarse labels.

    Args:
        run: its model shows its coarse logits from here on.
        teacher: on the run's device; None for a control, which has coarse labels alone.
        extra: pictures that join the fine ones.

    Attributes:
        loss: the distillation losses, with what they train: a discriminator, an adapter.
    """

    def __init__(self, run: Training, teacher: Teacher | None, extra: Extra) -> None:
        self.settings = run.config.distill or DistillConfig()
        self.teacher = teacher
        self.has_coarse = extra.coarse > 0
        self.ignore = run.label_space.ignore_index
        # Of an exported teacher the logits stand for its features.
        self.features = teacher is not None and teacher.has_features
        run.model.shows_coarse = True
        self.loss = self._build_loss(run)

    def _build_loss(self, run: Training) -> DistillationLoss:
        s, classes = self.settings, run.label_space.num_classes
        weights = {} if self.teacher is None else {str(k): v for k, v in s.losses.items()}
        # Random weights of their own, so that the student's stay what they would be.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.config.train.seed + 1)
            critic = Discriminator(classes, s.discriminator.width)
            loss = DistillationLoss(
                weights,
                temperature={"pixel": s.pixel_temperature, "channel": s.channel_temperature},
                ignore_index=self.ignore,
                student_channels=_width(run.model) if self.features else None,
                teacher_channels=_width(self.teacher.model)
                if self.teacher and self.features
                else None,
                discriminator=critic,
                adversary=s.discriminator.loss,
                class_weights=run.loss.class_weights,
                count_over=run.loss.count_over,
            )
        return loss.to(run.device).train()

    def labels(self, target: Tensor) -> Tensor:
        """What the supervised loss sees: labels of fine pictures, and what is ignored."""
        return target if target.ndim == 4 else target.masked_fill(target == UNLABELLED, self.ignore)

    def cells(self, run: Training, images: Tensor, target: Tensor, *, fine: int) -> Cells:
        """What will count in a part; for the arguments see `give`."""
        height, width = images.shape[-2:]
        h, w = height + -height % SIZE_MULTIPLE, width + -width % SIZE_MULTIPLE
        stride = int(run.model.decoder.stride)  # type: ignore[arg-type]
        size = (h // stride, w // stride)
        target = pad_target(target, (h / height, w / width), self.ignore)
        valid = self.loss.mask(self._known(target), size, None)
        return Cells(valid, shrink_target(target[fine:], size) if fine < len(target) else None)

    def _known(self, target: Tensor) -> Tensor:
        """Where a target says anything, if only that nothing is ignored: bool (N, H, W)."""
        return target.sum(1) > 0 if target.ndim == 4 else target != self.ignore

    def give(
        self,
        run: Training,
        network: nn.Module,
        images: Tensor,
        target: Tensor,
        *,
        fine: int,
        live: bool,
    ) -> tuple[Losses, Losses, Losses]:
        """Losses of a part of a batch, under autocast where the run has it.

        Args:
            network: the student, as it is called.
            images: uint8 (N, 3, H, W).
            target: (N, H, W) with `UNLABELLED` pixels, or soft ones of fine pictures alone.
            fine: how many of the pictures are fine; they come first.
            live: that this is a step, and no measurement: the discriminator gathers gradient.

        Returns:
            Supervised losses of the fine pictures, what is added to them with its weight, and
            figures to log.
        """
        output: TrainingOutput = network(images)
        base = run.loss(
            _first(output.logits, fine),
            {name: _first(level, fine) for name, level in output.auxiliary.items()},
            self.labels(_first(target, fine)),
            output.padded,
        )
        student = output.coarse
        if student is None:
            raise ValueError("the student's network does not show its coarse logits")
        with torch.autocast(images.device.type, enabled=False):
            logits = student.logits.float()
            taught = None
            weighted: Losses = {}
            figures: Losses = {}
            coarse = fine < len(images) and self.has_coarse and self.settings.coarse_weight > 0
            if self.teacher is not None and (self.loss.weights or coarse):
                taught = _ask(self.teacher, images, logits)
            padded = pad_target(target, output.padded, self.ignore)
            if taught is not None and self.loss.weights:
                weighted, figures = self._taught(run, student, taught, images, padded, live)
            if coarse:
                said = None if taught is None else taught.logits[fine:]
                loss, more = self._coarse(run, logits[fine:], said, padded[fine:])
                weighted["coarse"] = self.settings.coarse_weight * loss
                figures.update(more)
        return base, weighted, figures

    def _taught(
        self,
        run: Training,
        student: StrideOutput,
        taught: StrideOutput,
        images: Tensor,
        target: Tensor,
        live: bool,
    ) -> tuple[Losses, Losses]:
        """(weighted losses, figures) of all views, without what is ignored."""
        valid = self.loss.mask(self._known(target), student.logits.shape[-2:], None)
        images = _pad(images, student.padded_size)
        features = (student.features, taught.features) if self.features else (None, None)
        terms = self.loss(student.logits, taught.logits, valid, *features, images)
        terms.pop("total")
        weighted = {name: self.loss.weights[name] * value for name, value in terms.items()}
        with torch.no_grad():
            same = student.logits.max(1).indices == taught.logits.max(1).indices
            agreement = (same & valid).sum() / valid.sum().clamp(min=1)
        figures = {f"distill/{name}": value for name, value in terms.items()}
        figures["distill/agreement"] = agreement
        if self.loss.holistic is not None:
            critic = self.loss.holistic if live else copy.deepcopy(self.loss.holistic)
            terms = critic.discriminator_term(student.logits, taught.logits, images, valid)
            # Its gradient waits for the end of the step, the student's own comes later.
            (terms["total"] / stage_at(run).config.accumulate).backward()  # type: ignore[no-untyped-call]
            terms["loss"] = terms.pop("total").detach()
            figures |= {f"discriminator/{name}": value for name, value in terms.items()}
        return weighted, figures

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


def _ask(teacher: Teacher, images: Tensor, logits: Tensor) -> StrideOutput:
    """The teacher's answer on the same views, its logits in the student's cells."""
    answer = teacher(images)
    if answer.logits.shape[-2:] == logits.shape[-2:]:
        return answer
    size = (logits.shape[-2], logits.shape[-1])
    wide = F.interpolate(answer.logits.float(), size, mode="bilinear", align_corners=False)
    return answer._replace(logits=wide)


def _first(x: Tensor, count: int) -> Tensor:
    """The first `count` of `x`; all of it without the copy that a slice costs on the way back."""
    return x if count == len(x) else x[:count]


def _width(model: object) -> int:
    """Channels of the features that a segmenter shows."""
    if not isinstance(model, Segmenter):
        raise TypeError("only a segmenter shows features")
    classifier = model.get_submodule("decoder.classifier")
    return int(classifier.in_channels)  # type: ignore[arg-type]


def _pad(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (N, 3, H, W) with black padding on the right and at the bottom to `size`."""
    below, right = size[0] - images.shape[-2], size[1] - images.shape[-1]
    return F.pad(images, (0, right, 0, below)) if right or below else images
