"""Tiny raw data sets for the tests of prepare-labels."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (24, 40)  # height, width


def save_image(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), (90, 120, 60)).save(path)


def save_mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def polygons(shift: int = 0, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    h, w = size
    box = [[0, h // 2], [w, h // 2], [w, h], [0, h]]
    car = [[4 + shift, 10], [16 + shift, 10], [16 + shift, 18], [4 + shift, 18]]
    objects = [
        {"label": "road", "polygon": box},
        {"label": "car", "polygon": car},
        {"label": "license plate", "polygon": [[5, 12], [9, 12], [9, 14]]},
        {"label": "persongroup", "polygon": [[20, 4], [26, 4], [26, 16]]},
        {"label": "sky", "polygon": [[0, 0], [w, 0], [w, 3]], "deleted": 1},
    ]
    return {"imgWidth": w, "imgHeight": h, "objects": objects}


def save_polygons(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def cityscapes(
    root: Path, splits: dict[str, int], kind: str = "gtFine", size: tuple[int, int] = SIZE
) -> list[str]:
    """`splits` says how many frames each split gets; returns the keys."""
    keys = []
    for split, count in splits.items():
        for index in range(count):
            city = "aachen" if index % 2 else "zurich"
            key = f"{city}_{index:06d}_000019"
            save_image(root / "leftImg8bit" / split / city / f"{key}_leftImg8bit.png", size)
            path = root / kind / split / city / f"{key}_{kind}_polygons.json"
            save_polygons(path, polygons(index % 20, size))
            keys.append(key)
    return keys


def folder(root: Path, count: int, values: np.ndarray) -> None:
    """`images/ masks/` with `count` samples that all have the mask `values`."""
    for index in range(count):
        save_image(root / "images" / f"{index:03d}.png", values.shape)  # type: ignore[arg-type]
        save_mask(root / "masks" / f"{index:03d}.png", values)


def bytes_below(folder: Path) -> dict[str, str]:
    """Every file below `folder` with the digest of its bytes."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
