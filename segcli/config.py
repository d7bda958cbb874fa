"""The experiment as typed, strict configuration: YAML in, frozen pydantic models out.

YAML holds the experiment, flags hold the run, and `--set a.b=value` overrides any key.
Every default lives here, so that a YAML is short and complete. Nothing in this file
imports torch, and no validator touches a file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Pixels = Annotated[int, Field(ge=16, le=8192)]


class Section(BaseModel):
    """Unknown keys are errors and values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DataConfig(Section):
    prepared: str = "prepared/cityscapes-19"
    """Folder that `segcli prepare-labels` wrote."""
    label_space: str | None = None
    """Name of the label space that the folder must have; null takes what it has."""
    train: tuple[str, ...] = Field(default=("train",), min_length=1)
    """Splits to train on, joined; the path of another prepared folder stands for its train."""
    val: tuple[str, ...] = Field(default=("val",), min_length=1)
    """Splits to validate on."""
    soft_targets: bool = False
    """Train on the one-hot channels, resized as fractions, in place of class indices."""
    packed: bool = True
    """Cut training crops from the packed copy (`prepare-labels --pack`) where there is one."""
    workers: int | None = Field(default=None, ge=0, le=256)
    """Loader processes; null chooses by the number of cores."""
    worker_timeout: Positive = 300.0
    """Seconds without a batch after which a loader worker counts as hung."""


class ModelConfig(Section):
    encoder: str = "resnext50_32x4d"
    """A torchvision encoder by name, or timm:NAME with the extra `timm`."""
    decoder: Literal["fpn", "unet"] = "fpn"
    """Feature pyramid with a prediction at every level, or U-Net with concatenated skips."""
    decoder_block: Literal["plain", "residual"] = "plain"
    """Block of the U-Net decoder."""
    width: int = Field(default=128, ge=8, le=1024)
    """Channels of the pyramid (FPN), or of the coarsest stage (U-Net)."""
    head_width: int = Field(default=128, ge=8, le=1024)
    """Channels of the merged prediction branch (FPN)."""
    width_mult: Positive = 1.0
    """Width multiplier of mobilenet_v2."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of decoder channels dropped before the last prediction."""
    weights: str | None = None
    """Encoder weights: `imagenet` (downloads), a local file in torchvision's keys, or null."""


# What a preset means where the config does not say otherwise.
PRESETS: dict[str, dict[str, Any]] = {
    "none": {"scale": (1.0, 1.0), "flip": 0.0, "color": 0.0, "weather": 0.0},
    "base": {"scale": (0.5, 2.0), "flip": 0.5, "color": 0.3, "weather": 0.0},
    "weather": {"scale": (0.5, 2.0), "flip": 0.5, "color": 0.3, "weather": 1.0},
}


class AugmentConfig(Section):
    preset: Literal["none", "base", "weather"] = "base"
    """Defaults of the keys below: `none`, `base` (scale, crop, flip, colour) or `weather`."""
    scale: tuple[Positive, Positive] = (0.5, 2.0)
    """Range of the random resize before the crop."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    color: NonNegative = 0.3
    """Strength of brightness, contrast and saturation jitter; hue gets a fifth of it."""
    weather: NonNegative = 0.0
    """Strength of snow, rain, fog, darkness, blur and lens drops; 0 is always fair."""
    weather_share: Fraction = 0.25
    """Share of the crops that get weather; the larger, the more clear pictures lose."""
    extra: tuple[dict[str, Any], ...] = ()
    """More albumentations transforms of pixels, such as {name: GaussNoise, p: 0.2}, in order."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        defaults = PRESETS.get(str(value.get("preset", "base")), {})
        return {**defaults, **value}

    @model_validator(mode="after")
    def _ordered(self) -> AugmentConfig:
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale must be [smallest, largest]")
        return self


class StageConfig(Section):
    size: tuple[Pixels, Pixels] = (512, 1024)
    """Height and width of the training crop in pixels."""
    resize: Positive = 1.0
    """Factor by which images shrink or grow before augmentation, as in size progression."""
    epochs: Count = 60
    """Passes over the training images in this stage."""
    batch_size: Count = 8
    """Images in one optimiser step, over all processes."""
    accumulate: Count = 1
    """Parts that a batch is cut into, one after the other, where memory is short. OHEM, Dice and
    Lovász look at each part by itself, and so does batch norm."""
    lr_scale: Positive = 1.0
    """Factor on the learning rate in this stage."""
    augment: NonNegative = 1.0
    """Strength of the augmentation, which may grow with the size: a factor on colour and weather,
    an exponent of the range of scales."""
    freeze_stride: Literal[0, 2, 4, 8, 16, 32] = 0
    """Encoder layers up to this stride keep weights and batch norm statistics in this stage, and no
    gradient goes through them: 4 spares a quarter of a MobileNetV2's step; 32 is all layers."""

    @model_validator(mode="after")
    def _divisible(self) -> StageConfig:
        if self.batch_size % self.accumulate:
            raise ValueError("batch_size must be a multiple of accumulate")
        return self


class OptimizerConfig(Section):
    name: Literal["adamw", "sgd"] = "adamw"
    """Optimiser; weight decay never touches norms and biases."""
    lr: Positive = 1e-3
    """Peak learning rate of the decoder."""
    encoder_lr_factor: NonNegative = 0.3
    """Factor on `lr` for the encoder; 0 leaves its weights as they are."""
    weight_decay: NonNegative = 0.01
    """Decoupled for adamw, L2 for sgd."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """For sgd."""
    schedule: Literal["poly", "cosine", "onecycle", "constant"] = "poly"
    """How the learning rate falls after the warm-up; onecycle also rises in half a cosine."""
    power: Positive = 0.9
    """Exponent of `poly`."""
    warmup: Fraction = 0.05
    """Share of all steps in which the learning rate rises from 0."""
    clip_norm: NonNegative = 0.0
    """Largest gradient norm; 0 does not clip."""


LossTerm = Literal["cross_entropy", "ohem", "focal", "dice", "lovasz", "bce"]


class LossConfig(Section):
    terms: dict[LossTerm, Positive] = Field(default={"cross_entropy": 1.0}, min_length=1)
    """Losses by name and their weights; what is minimised is the weighted sum."""
    class_weights: Literal["none", "sqrt", "log"] = "none"
    """Class weights from the manifest's pixel counts: 1/sqrt(share) or 1/log(1.02 + share)."""
    auxiliary: NonNegative = 0.4
    """Weight of the mean of the pyramid levels' own losses."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target spread over all classes, in cross-entropy and OHEM."""
    ohem_threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    """OHEM counts pixels whose class has a probability below this..."""
    ohem_keep: Annotated[float, Field(gt=0, le=1)] = 0.0625
    """...and at least this share of the valid pixels, the hardest ones."""
    focal_gamma: NonNegative = 2.0
    """Exponent of the focal loss."""


class TrainConfig(Section):
    stages: tuple[StageConfig, ...] = Field(default=(StageConfig(),), min_length=1)
    """Size progression: one entry for a plain run."""
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the averaged weights that are validated and kept; 0 turns averaging off. Every stage
    begins a new average."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto measures a few steps on this machine and takes the fastest of fp32 and bf16."""
    channels_last: bool | None = None
    """Memory layout; null measures."""
    loss_at: Literal["network", "label"] = "network"
    """label: logits go back to the label's own resolution, `size / resize`, for the loss."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; auto compiles on CUDA, where it pays."""

    @field_validator("compile", mode="before")
    @classmethod
    def _words(cls, value: object) -> object:
        # YAML reads a bare on or off as true or false.
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    freeze_encoder: int = Field(default=0, ge=0)
    """Epochs at the start in which the encoder's weights stay as they are."""
    freeze_batchnorm: Literal["none", "encoder", "all"] = "none"
    """Where batch norm keeps the statistics and weights that it starts with."""
    validate_every: Count = 1
    """Epochs between validations; the last epoch is always validated."""
    best_by: str = "val/miou"
    """Logged score that decides which checkpoint is `best`, such as val_iou/person."""
    patience: int = Field(default=0, ge=0)
    """Validations without a better score after which training stops; 0 never stops early."""
    checkpoint_minutes: NonNegative = 10.0
    """Minutes between the checkpoints within an epoch; 0 writes one after every step."""
    nonfinite_limit: Count = 10
    """Steps in a row whose loss is not finite, after which training stops."""
    seed: int = Field(default=0, ge=0, le=2**31)
    """Fixes weights, order and augmentation."""


class EvalConfig(Section):
    size: tuple[Pixels, Pixels] | None = None
    """Images are resized to this height and width and logits back to the label's; null: as is."""
    batch_size: Count = 4
    """Images at a time."""
    pictures: int = Field(default=8, ge=0)
    """Panels of image, truth, prediction and error that `segcli eval` writes."""


DistillTerm = Literal["pixel", "channel", "pairwise", "holistic", "feature"]


class DiscriminatorConfig(Section):
    loss: Literal["hinge", "wgan-gp"] = "hinge"
    """Hinge is stable; wgan-gp, with its gradient penalty, is the paper's."""
    width: int = Field(default=32, ge=4, le=512)
    """Channels of the discriminator's first layer, doubled from layer to layer."""
    lr: Positive = 4e-4
    """Constant learning rate of its own optimiser, Adam."""


class DistillConfig(Section):
    teacher: str | None = None
    """Run folder or checkpoint of the teacher; `segcli distill --teacher` sets it."""
    losses: dict[DistillTerm, NonNegative] = {"pixel": 1.0, "channel": 3.0}
    """What the student learns from the teacher, and its weight beside the supervised loss."""
    pixel_temperature: Positive = 1.0
    """Softens the teacher's and the student's probabilities of a pixel."""
    channel_temperature: Positive = 4.0
    """Softens the distribution of a class over the pixels."""
    void: bool = False
    """Let the teacher speak where fine labels are ignored; it always does on extra pictures."""
    coarse: tuple[str, ...] = ()
    """Splits with coarse labels, such as [train_extra], or other prepared folders, such as one
    of `segcli predict --pseudo-labels`: a batch has as many extra pictures."""
    unlabelled: tuple[str, ...] = ()
    """Extra pictures without labels: splits (labels are not read), folders, files, videos, or
    demoVideo, the drives of Cityscapes."""
    frame_step: Count = 10
    """Every so many frames of a video become a picture."""
    coarse_weight: NonNegative = 0.5
    """Weight of the cross-entropy against coarse labels..."""
    overrule: Annotated[float, Field(ge=0, le=1)] = 0.8
    """...which is dropped where the teacher says otherwise with this probability or more."""
    fine_only: Fraction = 0.2
    """Last share of all steps, in which batches have fine pictures only."""
    measure_every: int = Field(default=100, ge=0)
    """Steps between measurements of each loss's share of the gradient; 0 never measures."""
    discriminator: DiscriminatorConfig = DiscriminatorConfig()


class Config(Section):
    """One experiment: the same file trains and evaluates."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    distill: DistillConfig | None = None
    """What `segcli distill` adds to the training of a student; other commands leave it aside."""

    @model_validator(mode="after")
    def _freezable(self) -> Config:
        for number, stage in enumerate(self.train.stages):
            if self.model.encoder.startswith("timm:") and stage.freeze_stride not in (0, 32):
                raise ValueError(
                    f"'train.stages.{number}.freeze_stride': should be 0 or 32, not "
                    f"{stage.freeze_stride}: {self.model.encoder} cannot be frozen in part"
                )
        return self

    @property
    def label_sources(self) -> dict[str, str]:
        """Splits that training takes labels from, and the folder that each name may be."""
        coarse = self.distill.coarse if self.distill is not None else ()
        return {name: name for name in (*self.data.train, *coarse)}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, every default filled in."""
        value = self.model_dump(mode="json")
        if self.distill is None:
            del value["distill"]
        return value
