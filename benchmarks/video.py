"""`segcli video` end to end, beside the loops that people write.

    python benchmarks/video.py VIDEO [--checkpoint RUN | --exported FILE] [--frames 400] [--memory]
    python benchmarks/video.py VIDEO --export openvino-bf16     # the same network, exported

Four sides, each in a process of its own, in turns, on the same file and frame size:

    segcli   make_video as the command calls it: decode, predict, draw, encode to H.264
    loop     cv2.VideoCapture, the same predictor and overlay, H.264 of the same quality by
             imageio-ffmpeg, which cv2's wheels have no encoder for
    mp4v     the same loop with cv2.VideoWriter: MPEG-4, at the same size of file 4.5 dB worse
             (PSNR 38.2 in the place of 42.6), and a quarter of the time of encoding
    smp      that loop around segmentation_models_pytorch's FPN in eager fp32

Reported are frames per second, CPU seconds per frame of all processes, and the share of the
cores that was put to use: fps x CPU seconds per frame / cores, of which 1 is the physical limit.
Before that the class maps of the first two sides are compared. `--memory` compares the resident
memory of all processes at 300 and at 3,000 frames.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import imageio_ffmpeg
import numpy as np
import torch

from segcli.checkpoint import load_checkpoint, save_checkpoint
from segcli.environment import keep_freed_memory, prepare_process, usable_cores
from segcli.inference.predictor import Predictor
from segcli.inference.video_ffmpeg import ffmpeg_path
from segcli.labels import load_label_space
from segcli.models.build import build_model
from segcli.recipes.video_inputs import find_jobs
from segcli.recipes.video_make import VideoOptions, make_video
from segcli.reporting.video import FramePainter, Look
from segcli.runs import find_checkpoint

SIDES = ("segcli", "loop", "mp4v", "smp")
SIZE = (352, 480)


def main() -> None:
    options = arguments()
    if options.side:
        print(json.dumps(run_side(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.work = Path(folder)
        if options.checkpoint is not None:
            options.checkpoint = find_checkpoint(options.checkpoint)
        elif options.exported is None:
            options.checkpoint = untrained(options.work / "run")
        if options.export:
            options.exported = export(options.checkpoint, options.export, options.work)
        options.video = looped(options.video, options.frames, options.work / "input.mp4")
        print(f"{usable_cores()} cores, {options.frames} frames of {options.video}")
        print(f"class maps equal in {agreement(options):.4%} of pixels")
        compare(options)
        if options.memory:
            memory(options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    exports = parser.add_mutually_exclusive_group()
    exports.add_argument("--exported", type=Path)
    exports.add_argument("--export", choices=("openvino-bf16", "openvino-int8"))
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def untrained(run: Path) -> Path:
    """A checkpoint of smp's FPN in our words: MobileNetV2, 256 channels, 128 in the head."""
    space = load_label_space("camvid-11")
    config: dict[str, Any] = {
        "encoder": "mobilenet_v2",
        "decoder": "fpn",
        "width": 256,
        "head_width": 128,
        "num_classes": space.num_classes,
    }
    description = {
        "model_config": config,
        "label_space": space.to_dict(),
        "inference": {"precision": "bf16", "channels_last": True, "size": list(SIZE)},
        "training": {},
        "data": {},
        "scores": {},
        "step": 0,
    }
    torch.manual_seed(0)
    save_checkpoint(run / "best", build_model(**config).state_dict(), description)
    return run / "best"


def export(checkpoint: Path, target: str, folder: Path) -> Path:
    """The checkpoint as `segcli export --to TARGET --size 352x480` writes it, unchecked."""
    from inference_sides import picture

    from segcli.recipes.export_graph import TARGETS, write_onnx, write_target

    found = load_checkpoint(checkpoint)
    source = write_onnx(found, folder / "source.onnx", TARGETS["onnx-fp32"], SIZE)
    pictures = [
        torch.from_numpy(picture(SIZE, seed)).permute(2, 0, 1)[None].contiguous()
        for seed in range(4)
    ]
    goal = TARGETS[target]
    write_target(found, source, folder / target, goal, SIZE, lambda: pictures)
    return folder / target / goal.file


def looped(video: Path, frames: int, path: Path) -> Path:
    """`video`, repeated without decoding until it has `frames` frames at least."""
    capture = cv2.VideoCapture(str(video))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    repeats = -(-frames // max(1, count))
    command = [ffmpeg_path(), "-v", "error", "-nostdin", "-stream_loop", str(repeats - 1)]
    command += ["-i", str(video), "-map", "0:v:0", "-c", "copy", "-y", str(path)]
    subprocess.run(command, check=True)
    return path


def open_predictor(options: argparse.Namespace) -> Predictor:
    return Predictor.from_checkpoint(options.exported or options.checkpoint, device="cpu")


def agreement(options: argparse.Namespace, count: int = 5) -> float:
    """Share of pixels in which segcli's masks equal those of the plain loop."""
    predictor, masks = open_predictor(options), options.work / "masks"
    (job,) = find_jobs([str(options.video)], options.work / "out")
    make_video(job, predictor, options.work / "out", VideoOptions(masks=masks, limit=count))
    capture = cv2.VideoCapture(str(options.video))
    equal = []
    for index in range(count):
        label = predictor.predict(np.ascontiguousarray(capture.read()[1][:, :, ::-1]))
        mask = cv2.imread(str(masks / job.name / f"{index:06d}.png"), cv2.IMREAD_COLOR_RGB)
        palette = predictor.label_space.palette()
        equal.append((palette[label] == mask).all(-1).mean())
    return float(np.mean(equal))


def compare(options: argparse.Namespace) -> None:
    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side in SIDES:
            results[side].append(in_process(options, side)[0])
    print(f"{'side':8}{'fps':>8}{'CPU s/frame':>13}{'cores used':>12}{'clock':>8}{'CPU':>8}")
    best = results["segcli"]
    for side in SIDES:
        fps = statistics.median(r["fps"] for r in results[side])
        cpu = statistics.median(r["cpu"] for r in results[side])
        clock = statistics.median(
            a["fps"] / b["fps"] for a, b in zip(best, results[side], strict=True)
        )
        ratio = statistics.median(
            b["cpu"] / a["cpu"] for a, b in zip(best, results[side], strict=True)
        )
        used = fps * cpu / usable_cores()
        print(f"{side:8}{fps:8.2f}{cpu:13.4f}{used:11.0%} {clock:7.2f}x{ratio:7.2f}x")


def in_process(options: argparse.Namespace, side: str) -> tuple[dict[str, float], list[int]]:
    """One side in a process of its own; its result, and resident bytes as it went."""
    command = [sys.executable, __file__, str(options.video), "--side", side]
    command += ["--frames", str(options.frames), "--work", str(options.work)]
    if options.exported:
        command += ["--exported", str(options.exported)]
    else:
        command += ["--checkpoint", str(options.checkpoint)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    resident: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            resident.append(tree_bytes(process.pid))

    thread = threading.Thread(target=watch)
    thread.start()
    output, _ = process.communicate()
    done.set()
    thread.join()
    if process.returncode:
        raise SystemExit(f"side {side} failed")
    return json.loads(output.splitlines()[-1]), resident


def tree_bytes(root: int) -> int:
    """Resident bytes of a process and all below it."""
    parents: dict[int, list[int]] = {}
    sizes: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
            sizes[int(entry.name)] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    waiting, total = [root], 0
    while waiting:
        number = waiting.pop()
        total += sizes.get(number, 0)
        waiting += parents.get(number, [])
    return total


def memory(options: argparse.Namespace) -> None:
    peaks = {}
    for frames in (300, 3000):
        options.frames = frames
        options.video = looped(options.video, frames, options.work / f"input-{frames}.mp4")
        _, resident = in_process(options, "segcli")
        # The typical level of the second half: the start loads, the end closes.
        peaks[frames] = statistics.median(resident[len(resident) // 2 :])
        print(f"{frames} frames: {peaks[frames] / 2**20:.0f} MiB resident")
    print(f"growth {peaks[3000] / peaks[300] - 1:+.1%}")


def run_side(options: argparse.Namespace) -> dict[str, float]:
    """Frames per second, and CPU seconds per frame with all children."""
    predict = smp_predictor() if options.side == "smp" else open_predictor(options).predict
    capture = cv2.VideoCapture(str(options.video))
    first = np.ascontiguousarray(capture.read()[1][:, :, ::-1])
    predict(first)
    started, cpu = time.perf_counter(), cpu_seconds()
    if options.side == "segcli":
        keep_freed_memory()  # as the command does
        predictor = open_predictor(options)
        started, cpu = time.perf_counter(), cpu_seconds()
        (job,) = find_jobs([str(options.video)], options.work / "out")
        frames = make_video(
            job, predictor, options.work / "out", VideoOptions(limit=options.frames)
        ).frames
    else:
        frames = plain_loop(options, predict, first.shape)
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    return {"fps": frames / seconds, "cpu": cpu / frames, "frames": frames}


def plain_loop(options: argparse.Namespace, predict: Any, shape: tuple[int, ...]) -> int:
    """Read, predict, draw, write: one after the other."""
    capture = cv2.VideoCapture(str(options.video))
    size, rate = (shape[1], shape[0]), capture.get(cv2.CAP_PROP_FPS)
    painter = FramePainter(load_label_space("camvid-11"), (shape[0], shape[1]), Look())
    write, close = opened_writer(options, size, rate)
    count = 0
    while count < options.frames:
        got, frame = capture.read()
        if not got:
            break
        image = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        write(painter.draw(image, predict(image)))
        count += 1
    close()
    return count


def opened_writer(
    options: argparse.Namespace, size: tuple[int, int], rate: float
) -> tuple[Callable[[Any], None], Callable[[], None]]:
    """(writes a picture, closes the file): H.264 as segcli encodes it, or what cv2 has."""
    path = str(options.work / "loop.mp4")
    if options.side == "loop":
        usual = VideoOptions()
        quality = ["-crf", str(usual.crf), "-preset", usual.preset]
        writer = imageio_ffmpeg.write_frames(
            path, size, fps=rate, quality=None, macro_block_size=2, output_params=quality
        )
        writer.send(None)
        return lambda picture: writer.send(np.ascontiguousarray(picture)), writer.close
    film = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    return lambda picture: film.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)), film.release


def smp_predictor() -> Any:
    """smp's FPN as its examples use it: eager, fp32, logits at full size."""
    import segmentation_models_pytorch as smp

    network = smp.FPN("mobilenet_v2", encoder_weights=None, classes=11).eval()
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    std = np.array([0.229, 0.224, 0.225], np.float32)

    @torch.inference_mode()
    def predict(image: Any) -> Any:
        small = cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA)
        scaled = (small.astype(np.float32) / 255 - mean) / std
        logits = network(torch.from_numpy(scaled).permute(2, 0, 1)[None])
        logits = torch.nn.functional.interpolate(logits, image.shape[:2], mode="bilinear")
        return logits.argmax(1)[0].byte().numpy()

    return predict


def cpu_seconds() -> float:
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    prepare_process()
    main()
