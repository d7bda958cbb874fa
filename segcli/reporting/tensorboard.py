"""TensorBoard event files, written without TensorBoard's background thread.

Its own writer dies in a thread when the disk is full: a traceback on the console, and the
error again at the next call, in the middle of training. Here events are framed by
TensorBoard's record writer and written from the caller's thread; the first failure ends
this log with one warning, and training goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segcli.reporting.events import NullReporter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FLUSH_EVERY_S = 5.0
_files = itertools.count()


class TensorBoardReporter(NullReporter):
    """Scalars, pictures and tables of a run, for ``tensorboard --logdir``.

    Args:
        folder: where the event file goes; it is made if need be.
        purge_step: a resumed run hides what an earlier one logged from this step on.
    """

    def __init__(self, folder: str | Path, *, purge_step: int | None = None) -> None:
        self._folder = Path(folder)
        self._file: Any = None
        self._flushed = time.monotonic()
        try:
            self._open(purge_step)
        except OSError as error:
            self._give_up(error)

    def _open(self, purge_step: int | None) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{os.getpid()}.{next(_files)}"
        self._file = (self._folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if purge_step is not None:
            self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))
        self._flush()

    def scalar(self, name: str, value: float, step: int) -> None:
        self._summary(step, tag=name, simple_value=float(value))

    def image(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        import cv2
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width = image.shape[:2]
        ok, png = cv2.imencode(".png", image[:, :, ::-1])
        if ok:
            picture = Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=png.tobytes()
            )
            self._summary(step, tag=name, image=picture)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        self._text(title, text)

    def _text(self, name: str, text: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()], tensor_shape=shape)
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        self._summary(0, tag=f"{name}/text_summary", metadata=plugin, tensor=tensor)

    def done(self) -> None:
        if self._file is None:
            return
        try:
            self._file.close()
        except OSError as error:
            self._give_up(error)
        self._file = None

    def _summary(self, step: int, **value: Any) -> None:
        if self._file is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        try:
            self._write(step=step, summary=Summary(value=[Summary.Value(**value)]))
            if time.monotonic() - self._flushed > _FLUSH_EVERY_S:
                self._flush()
        except OSError as error:
            self._give_up(error)

    def _write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **event).SerializeToString())

    def _flush(self) -> None:
        self._file.flush()
        self._flushed = time.monotonic()

    def _give_up(self, error: OSError) -> None:
        """Half a record is on disk by now, so that nothing behind it could be read."""
        reason = error.strerror or error
        warnings.warn(f"TensorBoard log stopped ({reason}): {self._folder}", stacklevel=4)
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()
