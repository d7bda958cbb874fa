"""PNGs that the Cityscapes test server takes: label ids at 2048x1024, one for each image."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segcli import files, png
from segcli.errors import DataError, UsageError
from segcli.labels import LabelSpace
from segcli.metrics.official import label_id_lut, one_label_a_class

SIZE = (1024, 2048)  # height, width
# The server finds the file of an image by this beginning of its name.
_KEY = re.compile(r"[^_/\\]+_\d{6}_\d{6}")


class Submission:
    """Writes class maps as label ids.

    Args:
        folder: created; one PNG for each image goes there.
        space: of the class maps; each class has to be one Cityscapes label.

    Raises:
        UsageError: a label space that the server would not understand.
    """

    def __init__(self, folder: Path, space: LabelSpace) -> None:
        table = label_id_lut(space)
        if table is None or not one_label_a_class(space):
            raise UsageError(
                f"'{space.name}' cannot be submitted, its classes are not Cityscapes' labels",
                hint="use a run with label space cityscapes-19",
            )
        self.folder, self._ids = files.make_folder(folder), table
        self.resized = False

    def write(self, key: str, prediction: NDArray[np.uint8]) -> Path:
        """Write the class map (h, w) of image `key`; another size is resized to the nearest.

        Raises:
            DataError: a key that is no ``city_sequence_frame``.
            OutputError: the file cannot be written.
        """
        if not _KEY.fullmatch(key):
            raise DataError(f"'{key}' is not the name of a Cityscapes image, city_sequence_frame")
        ids = self._ids[prediction]
        if ids.shape != SIZE:
            import cv2

            self.resized = True
            ids = np.asarray(cv2.resize(ids, SIZE[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
        path = self.folder / f"{key}_pred_labelIds.png"
        files.write_bytes(path, png.encode(ids), durable=False)
        return path
