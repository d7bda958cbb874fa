"""Training crops from the packed copy beside a pipeline that decodes and resizes whole images.

Frames of 2048x1024 as a camera sees them (the demo city at half size, enlarged, with texture and
sensor noise: PNGs of 2 to 2.6 MB) give crops of 512x1024 with the augmentation of the preset
`base`. The peer is albumentations in the order that the big frameworks use: decode with OpenCV,
resize everything, pad, crop, flip, colour. All sides run in a torch DataLoader with the same
workers, batches and collation, one after the other in turns. First the packed views are compared
with those of the decoded PNGs. ::

    python benchmarks/loader.py

The peer draws its factor uniformly from 0.5 to 2 and interpolates linearly, as frameworks do;
'peer, same work' has our draw, uniform in the logarithm, and averages areas when it shrinks,
which ours does below half the size only.
'copy alone' is a limit: the bytes of the crops' windows, copied out of the page cache. CPU time
stands beside the clock's: where other programs run, its ratio is the one to trust.

The second part trains with real batches and with one batch over and over, in turns.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as segcli train does

import albumentations as A
import cv2
import numpy as np
import torch
import typer
from torch.utils.data import DataLoader, Dataset

from segcli.data.color import ColorJitter
from segcli.data.dataset import StageBatches, TrainDataset, collate, train_loader
from segcli.data.images import read_label
from segcli.data.manifest import Sample, load_manifest
from segcli.data.pack import open_pack
from segcli.data.transforms import TrainTransform, _resize_image
from segcli.data.transport import SlotLoader
from segcli.environment import keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]
FRAME, CROP, SCALE, COLOR = (1024, 2048), (512, 1024), (0.5, 2.0), 0.3  # height, width
SEED, BATCH = 0, 4


class Speed(NamedTuple):
    """Milliseconds a crop: by the clock, and of all cores together."""

    clock: float
    cpu: float


def main(
    frames: Annotated[int, typer.Option(min=4, help="Frames to draw.")] = 16,
    crops: Annotated[int, typer.Option(min=16, help="Crops of the peer in a run.")] = 64,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Loader workers of all sides.")] = 2,
    steps: Annotated[int, typer.Option(help="Training steps of each kind; 0 for none.")] = 6,
    batch: Annotated[int, typer.Option(min=1, help="Images in a training step.")] = 4,
    height: Annotated[int, typer.Option(help="Of the training crop; twice as wide.")] = 256,
    device: Annotated[str, typer.Option(help="Where to train: cpu or cuda.")] = "cpu",
    folder: Annotated[Path, typer.Option(help="Scratch, kept.")] = Path("benchmark-loader"),
) -> None:
    """Print milliseconds a crop of each side, ratios, limits, bytes; then step rates."""
    keep_freed_memory()
    cv2.setNumThreads(0)
    folder = folder.resolve()
    samples = {codec: _prepare(folder, frames, codec) for codec in ("raw", "png")}
    _print_bytes(samples)
    _check_equal(samples)
    peer, ours = PeerData, _ours
    sides: dict[str, tuple[Callable[[], Dataset[Any]], int]] = {
        "peer": (lambda: peer(samples["raw"], A.RandomScale), crops),
        "peer, same work": (
            lambda: peer(samples["raw"], LogScale, area_for_downscale="image"),
            crops,
        ),
        "segcli, PNG": (lambda: ours(samples["raw"], packed=False), crops),
        "segcli, packed": (lambda: ours(samples["raw"]), 6 * crops),
        "segcli, packed png": (lambda: ours(samples["png"]), 2 * crops),
    }
    speeds: dict[str, list[Speed]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, (make, count) in sides.items():
            speeds[name].append(_measure(make(), frames, count, workers))
    _print_speeds(speeds)
    _print_parts(samples["raw"])
    if steps:
        _print_steps(samples["raw"], steps, batch, height, torch.device(device))


# --- the frames ------------------------------------------------------------------------------


def _prepare(folder: Path, frames: int, codec: str) -> tuple[Sample, ...]:
    """The training samples of a prepared folder with a packed copy of this codec."""
    tree, out = folder / f"tree-{frames}", folder / f"prepared-{frames}-{codec}"
    if not tree.is_dir():
        typer.echo(f"drawing {frames} frames ...")
        _make_tree(folder / "city", tree, frames)
    command = [sys.executable, "-m", "segcli", "prepare-labels", str(tree), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*command, "--pack", "--pack-codec", codec],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return load_manifest(out).split("train")


def _make_tree(city: Path, tree: Path, frames: int) -> None:
    from segcli.data.city import generate_city

    shutil.rmtree(city, ignore_errors=True)
    half = (FRAME[0] // 2, FRAME[1] // 2)
    generate_city(city, size=half, counts={"train": frames}, drives=0)
    building = tree.with_name(tree.name + "-building")
    shutil.rmtree(building, ignore_errors=True)
    for index, path in enumerate(sorted((city / "leftImg8bit").rglob("*.png"))):
        target = building / path.relative_to(city)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(cv2.imencode(".png", _photo(cv2.imread(str(path)), index))[1].tobytes())
    for path in sorted((city / "gtFine").rglob("*_polygons.json")):
        target = building / path.relative_to(city)
        target.parent.mkdir(parents=True, exist_ok=True)
        value = json.loads(path.read_text())
        value["imgHeight"], value["imgWidth"] = FRAME
        for thing in value["objects"]:
            thing["polygon"] = [[2 * x, 2 * y] for x, y in thing["polygon"]]
        target.write_text(json.dumps(value))
    building.rename(tree)


def _photo(small: np.ndarray, seed: int) -> np.ndarray:
    """Enlarged, with texture at three scales and the noise of a sensor behind a demosaic."""
    rng = np.random.default_rng(seed)
    size = FRAME[::-1]
    image = cv2.resize(small, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    for cell, strength in ((4, 0.6), (8, 1.0), (32, 2.8)):
        grain = rng.normal(0, strength, (FRAME[0] // cell, FRAME[1] // cell, 3)).astype(np.float32)
        image += cv2.resize(grain, size, interpolation=cv2.INTER_CUBIC)
    noise = cv2.GaussianBlur(rng.normal(0, 1, image.shape).astype(np.float32), (0, 0), 0.6)
    return np.clip(image + noise * (0.5 / noise.std()), 0, 255).astype(np.uint8)


# --- the sides -------------------------------------------------------------------------------


class LogScale(A.RandomScale):
    """The peer's resize with our draw of the factor."""

    def get_params(self) -> dict[str, float]:
        return {"scale": float(np.exp(self.py_random.uniform(*np.log(SCALE))))}


class PeerData(Dataset[Any]):
    """Decode all, resize all, pad, crop, flip, colour; labels as grey PNGs of their own."""

    def __init__(self, samples: tuple[Sample, ...], resize: Any, **options: Any) -> None:
        self.files = [(str(s.image), str(_grey(s))) for s in samples]
        low, high, s = SCALE[0] - 1, SCALE[1] - 1, COLOR
        self.augment = A.Compose(
            [
                resize(scale_limit=(low, high), p=1, **options),
                A.PadIfNeeded(*CROP, border_mode=cv2.BORDER_CONSTANT, fill_mask=255),
                A.RandomCrop(*CROP),
                A.HorizontalFlip(p=0.5),
                A.ColorJitter(*[(1 - s, 1 + s)] * 3, hue=(-s / 5, s / 5), p=0.8),
            ]
        )

    def __getitem__(self, ticket: tuple[int, int]) -> Any:
        image_file, label_file = self.files[ticket[1]]
        image = cv2.cvtColor(cv2.imread(image_file), cv2.COLOR_BGR2RGB)
        label = cv2.imread(label_file, cv2.IMREAD_UNCHANGED)
        view = self.augment(image=image, mask=label)
        return torch.from_numpy(view["image"]).permute(2, 0, 1), torch.from_numpy(view["mask"])


def _grey(sample: Sample) -> Path:
    """The label as a plain grey PNG, which OpenCV reads as it is."""
    path = sample.label.parents[2] / "grey" / f"{sample.id}.png"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".png", read_label(sample.label))[1].tobytes())
    return path


def _ours(samples: tuple[Sample, ...], *, packed: bool = True) -> TrainDataset:
    transform = TrainTransform(CROP, scale=SCALE, color=COLOR)
    return TrainDataset(samples, transform, seed=SEED, num_classes=19, packed=packed)


def _check_equal(samples: dict[str, tuple[Sample, ...]]) -> None:
    plain = _ours(samples["raw"], packed=False)
    for codec, packed in samples.items():
        data = _ours(packed)
        for index in range(min(12, len(packed))):
            for one, other in zip(plain.view((1, index)), data.view((1, index)), strict=True):
                if not torch.equal(one, other):
                    raise SystemExit(f"views differ: {codec}, sample {index}")
    typer.echo("packed views are those of the PNGs, bit for bit")


# --- measuring -------------------------------------------------------------------------------


def _start(number: int) -> None:
    cv2.setNumThreads(0)
    data = torch.utils.data.get_worker_info().dataset
    if isinstance(data, PeerData):
        data.augment.set_random_seed(number)


def _measure(data: Dataset[Any], frames: int, crops: int, workers: int) -> Speed:
    """A run less a run of a few crops: what starting the workers costs is left out."""
    few = BATCH * workers
    short, long = (_run(data, frames, count, workers) for count in (few, few + crops))
    return Speed(*(1000 * (b - a) / crops for a, b in zip(short, long, strict=True)))


def _run(data: Dataset[Any], frames: int, crops: int, workers: int) -> tuple[float, float]:
    """Seconds of `crops` views by the clock, and of all cores together."""
    epochs = crops // frames + 2
    batches = StageBatches(frames, BATCH, epochs=epochs, first_epoch=0, seed=SEED, start=0)
    order = list(batches)[: crops // BATCH]
    before, start = _cpu(), time.perf_counter()
    options: dict[str, Any] = {
        "batch_sampler": order,
        "num_workers": workers,
        "worker_init_fn": _start,
        "prefetch_factor": 4,
    }
    if isinstance(data, PeerData):
        loader: Any = DataLoader(data, collate_fn=collate, **options)
    else:
        shape = (BATCH, *CROP)
        loader = SlotLoader(data, image=(*shape, 3), target=shape, collate=collate, **options)
    for _ in loader:
        pass
    clock = time.perf_counter() - start
    del loader
    return clock, _cpu() - before


def _cpu() -> float:
    """CPU seconds of this process and of the workers that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, kinds))


def _print_bytes(samples: dict[str, tuple[Sample, ...]]) -> None:
    images = sum(s.image.stat().st_size for s in samples["raw"])
    count = len(samples["raw"])
    typer.echo(f"{count} PNGs of {images / count / 1e6:.2f} MB")
    for codec, packed in samples.items():
        size = sum(s.packed.stat().st_size for s in packed if s.packed)
        text = f"{size / count / 1e6:.2f} MB a frame, {size / images:.2f} of the PNGs"
        typer.echo(f"packed {codec}: {text}")


def _print_speeds(speeds: dict[str, list[Speed]]) -> None:
    middle = {
        name: Speed(*(statistics.median(column) for column in zip(*values, strict=True)))
        for name, values in speeds.items()
    }
    for name, speed in middle.items():
        values = ", ".join(f"{s.clock:.2f}" for s in speeds[name])
        typer.echo(f"{name:20s} {speed.clock:7.2f} ms a crop, CPU {speed.cpu:7.2f} ms ({values})")
    for peer in ("peer", "peer, same work"):
        for name in middle:
            if name.startswith("segcli"):
                clock = statistics.median(
                    p.clock / s.clock for p, s in zip(speeds[peer], speeds[name], strict=True)
                )
                cpu = middle[peer].cpu / middle[name].cpu
                typer.echo(f"{peer} / {name}: clock {clock:.2f}, CPU {cpu:.2f}")


def _print_parts(samples: tuple[Sample, ...], count: int = 96) -> None:
    """Where a packed crop's CPU time goes, in this process; and the limit."""
    transform, jitter = TrainTransform(CROP, scale=SCALE, color=COLOR), ColorJitter(COLOR)
    parts = dict.fromkeys(("open", "copy alone", "resize", "colour", "label"), 0.0)
    size, whole = 0, _ours(samples)

    def add(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        value = work()
        parts[name] += 1000 * (time.process_time() - start) / count
        return value

    total = 0.0
    for number in range(count):
        sample = samples[number % len(samples)]
        rng = np.random.default_rng([SEED, number, 7])
        factor = float(np.exp(rng.uniform(*np.log(SCALE))))
        window, inner, _ = transform._crop(FRAME, factor, rng)
        image, label = add("open", lambda s=sample: open_pack(s.packed, s.image, s.sha256))
        cut, target = image.window(window, inner), label[window]
        size += cut.nbytes + target.nbytes
        add("copy alone", lambda c=cut, t=target: (c.copy(), t.copy()))
        view = add("resize", lambda c=cut, i=inner: _resize_image(c, i))
        add("colour", lambda v=view, n=number: jitter(v, n))
        place = ((slice(0, inner[0]), slice(0, inner[1])), inner, (0, 0))
        add("label", lambda la=label, w=window, p=place: transform._target(la, w, p[1], p[2]))
        start = time.process_time()
        whole.view((number, number % len(samples)))
        total += 1000 * (time.process_time() - start) / count
    for name, value in parts.items():
        typer.echo(f"  {name:12s} {value:6.2f} ms")
    rate = size / count / 1e6 / parts["copy alone"]
    typer.echo(
        f"  whole view   {total:6.2f} ms; {size / count / 1e6:.2f} MB a crop, {rate:.1f} GB/s"
    )


# --- training --------------------------------------------------------------------------------


def _print_steps(
    samples: tuple[Sample, ...], steps: int, batch: int, height: int, device: torch.device
) -> None:
    """FPN-MobileNetV2 in bf16, channels-last: steps a second on real and on constant batches."""
    from segcli.models.build import build_model

    torch.manual_seed(0)
    model = build_model(encoder="mobilenet_v2", decoder="fpn", num_classes=19)
    model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step(images: torch.Tensor, target: torch.Tensor) -> None:
        images, target = images.to(device), target.to(device).long()
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(images).logits
        loss = torch.nn.functional.cross_entropy(logits.float(), target, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    seconds: dict[str, list[float]] = {"constant": [], "real": []}
    constant: Any = None
    for _ in range(2):
        # The queue that fills while the first batch is waited for would hide a slow loader.
        stream = _batches(samples, batch, height, steps + 5)
        for _ in range(5):
            constant = next(stream)
            step(*constant)
        seconds["real"].append(_timed(lambda s=stream: step(*next(s)), steps))
        stream.close()
        del stream
        seconds["constant"].append(_timed(lambda c=constant: step(*c), steps))
    rates = {name: steps / statistics.median(values) for name, values in seconds.items()}
    for name, rate in rates.items():
        typer.echo(f"{name:9s} batches: {rate:.3f} steps/s, {rate * batch:.2f} images/s")
    typer.echo(f"share {rates['real'] / rates['constant']:.3f}")


def _batches(samples: tuple[Sample, ...], batch: int, height: int, count: int) -> Iterator[Any]:
    transform = TrainTransform((height, 2 * height), scale=SCALE, color=COLOR)
    data = TrainDataset(samples, transform, seed=SEED, num_classes=19)
    epochs = count * batch // len(samples) + 2
    order = StageBatches(len(data), batch, epochs=epochs, first_epoch=0, seed=SEED, start=0)
    yield from train_loader(data, order, workers=1, pin_memory=False)


def _timed(work: Callable[[], None], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        work()
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
