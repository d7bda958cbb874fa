"""Coarse annotation as people draw it: inside the object, few corners, void in between."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segcli.data.city.paint import outlines

_WORK = 512  # pixels; coarse outlines need no finer picture
_THIN = {"pole", "polegroup", "license plate", "out of roi"}


def coarse_objects(items: NDArray[np.int16], labels: list[str]) -> list[dict[str, Any]]:
    """Cautious polygons of what is visible.

    Args:
        items: (H, W) index into `labels` of the object seen, -1 for none.
        labels: name of each object.
    """
    h, w = items.shape
    scale = max(1.0, max(h, w) / _WORK)
    small = cv2.resize(
        items, (max(1, round(w / scale)), max(1, round(h / scale))), interpolation=cv2.INTER_NEAREST
    )
    reach = max(1, round(small.shape[0] * 0.010))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    found: list[dict[str, Any]] = []
    for i in np.unique(small):
        if i < 0 or labels[i] in _THIN:
            continue
        mask = (small == i).astype(np.uint8)
        x, y, bw, bh = cv2.boundingRect(mask)
        eroded = np.asarray(
            cv2.erode(mask[y : y + bh, x : x + bw], kernel, borderValue=1), np.uint8
        )
        if int(eroded.sum()) < 0.0006 * small.size:
            continue
        for polygon in outlines(eroded, (x, y), slack=max(1.0, 0.8 * reach))[:3]:
            corners = [[round(px * scale), round(py * scale)] for px, py in polygon]
            found.append({"label": labels[i], "polygon": corners})
    return found
