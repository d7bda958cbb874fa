"""What a conversion is asked for and what it answers; imports nothing heavy.

The process that hands out the work needs these, and not numpy: while it looks at folders, its
workers import what they need.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from segcli.labels import LabelSpace

OFFICIAL = ("labelIds", "labelTrainIds", "instanceIds", "color")
INDEX, RAW = "index", "raw"
PACK_CODECS = ("raw", "png")


class Task(NamedTuple):
    """What is the same for every sample of a run.

    `pack` is the codec of the packed copy that samples of `pack_splits` get; empty for none.
    """

    root: Path
    out: Path
    layout: str
    label_space: LabelSpace
    also: tuple[str, ...] = ()
    one_hot: bool = False
    mask_values: str = INDEX
    pack: str = ""
    pack_splits: tuple[str, ...] = ()


class Done(NamedTuple):
    """What one sample became: `outputs` maps paths below the prepared folder to SHA-256."""

    split: str
    id: str
    size: tuple[int, int]
    pixels: tuple[int, ...]
    outputs: dict[str, str]


def label_path(split: str, key: str) -> str:
    """Where the label of a sample lies below the prepared folder."""
    return f"labels/{split}/{key}.png"


def one_hot_path(split: str, key: str) -> str:
    """Where the one-hot channels of a sample lie below the prepared folder."""
    return f"onehot/{split}/{key}.npz"


def pack_path(split: str, key: str) -> str:
    """Where the packed copy of a sample lies below the prepared folder."""
    return f"packed/{split}/{key}.pack"
