"""The experiment as typed, strict configuration: YAML in, frozen pydantic models out.

YAML holds the experiment, flags hold the run, and `--set a.b=value` overrides any key.
Every default lives here, so that a YAML is short and complete. Nothing in this file
imports torch, and no validator touches a file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    """Splits to train on, joined."""
    val: tuple[str, ...] = Field(default=("val",), min_length=1)
    """Splits to validate on."""
    soft_targets: bool = False
    """Train on the one-hot channels, resized as fractions, in place of class indices."""
    workers: int | None = Field(default=None, ge=0, le=256)
    """Loader processes; null chooses by the number of cores."""


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


class AugmentConfig(Section):
    scale: tuple[Positive, Positive] = (0.5, 2.0)
    """Range of the random resize before the crop."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    color: NonNegative = 0.3
    """Strength of brightness, contrast and saturation jitter; hue gets a fifth of it."""

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
    """Images in one optimiser step."""
    lr_scale: Positive = 1.0
    """Factor on the learning rate in this stage."""


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
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    """How the learning rate falls after the warm-up."""
    power: Positive = 0.9
    """Exponent of `poly`."""
    warmup: Fraction = 0.05
    """Share of all steps in which the learning rate rises from 0."""
    clip_norm: NonNegative = 0.0
    """Largest gradient norm; 0 does not clip."""


class LossConfig(Section):
    class_weights: Literal["none", "sqrt", "log"] = "none"
    """Class weights from the manifest's pixel counts: 1/sqrt(share) or 1/log(1.02 + share)."""
    auxiliary: NonNegative = 0.4
    """Weight of the mean of the pyramid levels' own losses."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target spread over all classes."""


class TrainConfig(Section):
    stages: tuple[StageConfig, ...] = Field(default=(StageConfig(),), min_length=1)
    """Size progression: one entry for a plain run."""
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the averaged weights that are validated and kept; 0 turns averaging off."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto measures a few steps on this machine and takes the fastest of fp32 and bf16."""
    channels_last: bool | None = None
    """Memory layout; null measures."""
    validate_every: Count = 1
    """Epochs between validations; the last epoch is always validated."""
    seed: int = Field(default=0, ge=0, le=2**31)
    """Fixes weights, order and augmentation."""


class EvalConfig(Section):
    size: tuple[Pixels, Pixels] | None = None
    """Images are resized to this height and width and logits back to the label's; null: as is."""
    batch_size: Count = 4
    """Images at a time."""
    pictures: int = Field(default=8, ge=0)
    """Panels of image, truth, prediction and error that `segcli eval` writes."""


class Config(Section):
    """One experiment: the same file trains and evaluates."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, every default filled in."""
        return self.model_dump(mode="json")
