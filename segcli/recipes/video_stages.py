"""The stages that a frame goes through, side by side, and where the time goes.

decode -> predict -> steady -> draw -> encode. Between two stages few frames wait, so that
memory does not grow with the length of the video. Frames are independent of each other until
`steady`: on a CPU each core predicts a frame of its own, with nobody to wait for.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcli.environment import usable_cores
from segcli.inference.backends import OnnxBackend, OpenVinoBackend, open_backend
from segcli.inference.predictor import Predictor
from segcli.inference.video_motion import CutDetector
from segcli.inference.video_read import Frame
from segcli.inference.video_smooth import Reuse, Smoother, quarter
from segcli.parallel import map_ahead
from segcli.recipes.video_inputs import Source
from segcli.reporting.video import FramePainter, Look

STAGES = ("decode", "predict", "steady", "draw", "encode")
_MOST_WORKERS = 8
_WAITING = 3


@dataclass(frozen=True)
class Item:
    """A frame on its way: `label` and `picture` come to it stage by stage."""

    frame: Frame
    cut: bool
    wanted: bool
    label: NDArray[np.uint8] | None = None
    probabilities: Tensor | None = None
    picture: NDArray[np.uint8] | None = None


@dataclass
class Clock:
    """Seconds per stage: of the CPU, except for a GPU's part."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    started: float = field(default_factory=time.perf_counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def measure(self, stage: str, *, wall: bool = False) -> Iterator[None]:
        """Count the block, in this thread's CPU time or by the wall clock."""
        clock = time.perf_counter if wall else time.thread_time
        start = clock()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] += clock() - start

    def shares(self, **more: float) -> dict[str, float]:
        """Each stage's share of the total, 0..1; `more` are seconds in other processes."""
        seconds = {name: self.seconds[name] + more.get(name, 0.0) for name in STAGES}
        total = sum(seconds.values()) or 1.0
        return {name: value / total for name, value in seconds.items() if value > 0}

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started


@dataclass
class Pipeline:
    """Everything between a source and an encoder.

    Args:
        every: predict one frame of this many; the others reuse it, moved along.
        smooth: how much of the past goes into a frame, None for none.
        stop: set to let the frames that are under way through and then end.
    """

    predictor: Predictor
    look: Look
    every: int = 1
    smooth: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    clock: Clock = field(default_factory=Clock)
    smoother: Smoother | None = None

    def __post_init__(self) -> None:
        if self.smooth is not None:
            self.smoother = Smoother(self.smooth)
        self._reuse = Reuse()
        self._painter: FramePainter | None = None
        self._free: queue.SimpleQueue[Predictor] = queue.SimpleQueue()
        self._on_gpu = self.predictor.device.type != "cpu"

    def run(self, source: Source) -> Iterator[Item]:
        """Finished frames in order."""
        workers = _workers(self.predictor)
        for predictor in workers:
            self._free.put(predictor)
        with ExitStack() as stack:
            stack.enter_context(_threads_for(len(workers)))
            frames = stack.enter_context(closing(read_ahead(self._decode(source), _WAITING)))
            predicted = stack.enter_context(
                closing(
                    map_ahead(self._predict, frames, threads=len(workers), ahead=len(workers) + 2)
                )
            )
            steady: Iterator[Item] = predicted
            if self.smoother is not None or self.every > 1:
                calm = self._smoothed if self.smoother is not None else self._reused
                steady = stack.enter_context(closing(read_ahead(calm(predicted), _WAITING)))
            yield from stack.enter_context(
                closing(map_ahead(self._draw, steady, threads=1, ahead=_WAITING))
            )

    def _decode(self, source: Source) -> Iterator[Item]:
        cuts, since = CutDetector(), 0
        frames = iter(source)
        compares = self.smoother is not None or self.every > 1
        while not self.stop.is_set():
            with self.clock.measure("decode"):
                frame = next(frames, None)
                if frame is None:
                    return
                cut = compares and cuts.is_cut(frame.image)
            since = 0 if cut else since + 1
            yield Item(frame, cut, wanted=since % self.every == 0)

    def _predict(self, item: Item) -> Item:
        if not item.wanted:
            return item
        predictor, image = self._free.get(), item.frame.image
        try:
            with self.clock.measure("predict", wall=self._on_gpu):
                if self.smoother is None:
                    return replace(item, label=predictor.predict(image))
                grid = quarter(predictor, (image.shape[0], image.shape[1]))
                return replace(item, probabilities=predictor.probabilities([image], grid)[0])
        finally:
            self._free.put(predictor)

    def _reused(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            with self.clock.measure("steady"):
                label = self._reuse.update(item.frame.image, item.label)
            yield replace(item, label=label)

    def _smoothed(self, items: Iterator[Item]) -> Iterator[Item]:
        smoother, waiting = self.smoother, None
        assert smoother is not None
        for item in items:
            with self.clock.measure("steady", wall=self._on_gpu):
                label = smoother.push(item.frame.image, item.probabilities, item.cut)
            if waiting is not None:
                yield replace(waiting, label=label)
            waiting = replace(item, probabilities=None)
        if waiting is not None:
            yield replace(waiting, label=smoother.finish())

    def _draw(self, item: Item) -> Item:
        image, label = item.frame.image, item.label
        if label is None:
            raise ValueError("a frame without a class map")
        with self.clock.measure("draw"):
            if self._painter is None:
                size = (image.shape[0], image.shape[1])
                self._painter = FramePainter(self.predictor.label_space, size, self.look)
            picture = self._painter.draw(image, label, seconds=self.clock.elapsed)
            return replace(item, picture=picture)


def _workers(predictor: Predictor) -> list[Predictor]:
    """A predictor for every thread that predicts.

    On a CPU each has a share of the cores to itself: threads that share a frame wait for each
    other, and for whatever else runs. Two on a GPU: one prepares a frame, the other computes.
    """
    if predictor.device.type != "cpu":
        return [predictor] * 2
    backend, count = predictor.backend, min(_MOST_WORKERS, usable_cores())
    if not isinstance(backend, OnnxBackend | OpenVinoBackend):
        return [predictor] * count
    share = max(1, usable_cores() // count)
    opened = [open_backend(backend.path, threads=share) for _ in range(count)]
    return [predictor.with_backend(one) for one in opened]


@contextmanager
def _threads_for(workers: int) -> Iterator[None]:
    """The cores divided among the workers, in torch and in cv2."""
    torch_threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(max(1, usable_cores() // workers))
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv_threads)


@dataclass(frozen=True)
class _End:
    error: BaseException | None = None


def read_ahead(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """`items`, drawn in a thread of its own, `depth` of them waiting at most."""
    waiting: queue.Queue[Item | _End] = queue.Queue(depth)
    gone = threading.Event()

    def put(item: Item | _End) -> None:
        while not gone.is_set():
            try:
                waiting.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def draw() -> None:
        try:
            for item in items:
                put(item)
                if gone.is_set():
                    return
            put(_End())
        except BaseException as error:
            put(_End(error))

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        # Whoever closes what `items` draws from must not find it at work.
        gone.set()
        thread.join()
