"""`segcli video`: a zoo of inputs, and what becomes of each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_run import SPACE, blocks, make_run, one_thread, write_image  # noqa: F401
from typer import Typer
from typer.testing import CliRunner
from video_zoo import boxes, clip, describe, ffmpeg, look, make

from segcli.commands.video import video
from segcli.errors import DataError, OutputError, SegcliError, UsageError
from segcli.inference.video_probe import exact_rate, mp4_frames, probe
from segcli.inference.video_read import VideoReader
from segcli.recipes.video_inputs import find_jobs
from segcli.reporting.video import Look

BARE = Look(legend=False)


def test_a_clip_becomes_one_that_browsers_play(tmp_path: Path) -> None:
    source = clip(tmp_path / "in.mp4", "-c:v", "libx264", "-c:a", "aac", sound=True, rate=25)
    result = make(source, tmp_path / "out")
    assert (result.fault, result.frames, result.total) == (None, 25, 25)
    seen = look(result.path)
    assert (len(seen.frames), seen.size) == (25, (48, 64))
    assert np.allclose(np.diff(seen.times), 0.04, atol=1e-6)
    said = describe(result.path)
    assert "h264 (High)" in said and "yuv420p" in said and "Audio: aac" in said
    assert "Duration: 00:00:01.0" in said
    names = boxes(result.path)
    assert names.index("moov") < names.index("mdat"), "a browser starts before it has it all"
    assert list((tmp_path / "out").iterdir()) == [result.path], "nothing else is left"


def test_pixels_and_classes_are_where_they_belong(tmp_path: Path) -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :48] = (160, 200, 40)  # house
    image[:, 48:] = (30, 60, 90)  # ground
    for index in range(4):
        write_image(tmp_path / "drive" / f"frame_{index}.png", image)
    opaque = Look(opacity=1.0, contours=False, legend=False)
    result = make(tmp_path / "drive", tmp_path / "out", look=opaque, crf=1)
    (frame, *_) = look(result.path).frames
    for part, index in ((frame[:, 4:40], 2), (frame[:, 56:92], 0)):
        wanted = np.array(SPACE.classes[index].color)
        assert np.abs(part.reshape(-1, 3).mean(0) - wanted).max() < 4
    clear = make(
        tmp_path / "drive", tmp_path / "clear", look=Look(opacity=0.0, legend=False), crf=1
    )
    assert np.abs(look(clear.path).frames[0].astype(int) - image)[:, 4:40].max() < 6


def test_every_kind_of_frame(tmp_path: Path) -> None:
    source = clip(tmp_path / "in.mp4", "-c:v", "libx264", size="320x240", seconds=0.3)
    sizes = {
        "overlay": (240, 320),
        "side-by-side": (240, 640),
        "split": (240, 320),
        "mask": (240, 320),
    }
    for view, size in sizes.items():
        result = make(source, tmp_path / view, look=Look(view, shares=True, rate=True))
        assert look(result.path).size == size


@pytest.mark.parametrize("rate", ["30000/1001", "24000/1001", "50", "12.5"])
def test_rates_are_kept_exactly(tmp_path: Path, rate: str) -> None:
    source = clip(tmp_path / "in.mkv", "-c:v", "libx264", rate=rate)
    result = make(source, tmp_path / "out", look=BARE)
    seen, number = look(result.path), eval(rate)
    assert np.allclose(seen.times, np.arange(len(seen.times)) / number, atol=2e-5)


def test_a_variable_rate_stays_one(tmp_path: Path) -> None:
    timing = "setpts='if(lt(N,5),N,5+(N-5)*3)/10/TB'"
    source = clip(tmp_path / "in.mp4", "-vf", timing, "-fps_mode", "vfr", "-c:v", "libx264")
    wanted = look(source).times
    assert len(set(np.round(np.diff(wanted), 3))) > 1
    result = make(source, tmp_path / "out", look=BARE)
    assert np.allclose(look(result.path).times, wanted, atol=1e-4)


def test_a_turned_clip_is_upright(tmp_path: Path) -> None:
    plain = clip(tmp_path / "plain.mp4", "-c:v", "libx264")
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", plain, "-c", "copy", turned)
    result = make(turned, tmp_path / "out", look=Look(opacity=0, legend=False), crf=1)
    seen = look(result.path)
    assert seen.size == (64, 48)
    upright = np.rot90(look(plain).frames[3])
    assert np.abs(seen.frames[3].astype(int) - upright).mean() < 8
    assert "rotation" not in describe(result.path)


def test_pixels_that_are_not_square_become_square(tmp_path: Path) -> None:
    source = clip(tmp_path / "in.mp4", "-vf", "setsar=2/1", "-c:v", "libx264")
    assert look(make(source, tmp_path / "out", look=BARE).path).size == (48, 128)


ZOO = {
    "odd": (
        ["-vf", "scale=321:241,format=yuv444p", "-c:v", "libx264"],
        {"size": "321x241", "seconds": 0.3},
    ),
    "point": (["-vf", "scale=1:1,format=bgr0", "-c:v", "ffv1"], {"size": "1x1", "seconds": 0.3}),
    "single": (["-c:v", "libx264", "-frames:v", "1"], {}),
    "ten-bit": (["-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=0"], {}),
    "vp9": (["-c:v", "libvpx-vp9"], {"seconds": 0.3}),
    "mjpeg": (["-c:v", "mjpeg"], {}),
    "gif": ([], {}),
}
SUFFIX = {"point": "mkv", "mjpeg": "avi", "vp9": "webm", "gif": "gif"}


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo(tmp_path: Path, name: str) -> None:
    output, options = ZOO[name]
    drawn = {k: v for k, v in options.items() if k != "size"}
    source = clip(tmp_path / f"{name}.{SUFFIX.get(name, 'mp4')}", *output, **drawn)
    result = make(source, tmp_path / "out")
    wanted = {"single": 1}.get(name, round(10 * options.get("seconds", 1)))
    assert (result.fault, result.frames) == (None, wanted)
    seen = look(result.path)
    width, height = (int(n) for n in options.get("size", "64x48").split("x"))
    even = (height + height % 2, width + width % 2)
    assert (len(seen.frames), seen.size) == (wanted, even)


def test_a_stream_without_a_duration(tmp_path: Path) -> None:
    source = clip(tmp_path / "raw.h264", "-c:v", "libx264", "-f", "h264", rate=25)
    assert probe(source).duration is None
    result = make(source, tmp_path / "out", look=BARE)
    assert (result.fault, result.frames, result.duration) == (None, 25, 1.0)


def test_of_two_videos_the_default_one_is_taken(tmp_path: Path) -> None:
    small, large = clip(tmp_path / "a.mp4"), clip(tmp_path / "b.mp4", size="128x96", seconds=2)
    both = tmp_path / "both.mkv"
    maps = ("-map", "0:v", "-map", "1:v", "-c", "copy", "-disposition:v:0", "0")
    ffmpeg("-i", large, "-i", small, *maps, "-disposition:v:1", "default", both)
    result = make(both, tmp_path / "out", look=BARE)
    assert look(result.path).size == (48, 64) and result.frames == 10 and result.fault is None


NAMES = ["-clip.mp4", "two words.mp4", 'it\'s "so".mp4', "new\nline.mp4", "ünï%d$(x).mp4", "a:b|c"]


@pytest.mark.parametrize("name", NAMES)
def test_names(in_tmp: Path, name: str) -> None:
    clip(in_tmp / "clip.mp4", "-c:v", "libx264", "-c:a", "aac", sound=True, seconds=0.2)
    (in_tmp / "clip.mp4").rename(name)
    result = make(name, Path("out"))
    assert result.fault is None
    assert result.path == Path("out") / f"{Path(name).stem}.mp4"
    assert "Audio" in describe(in_tmp / result.path)


def test_a_truncated_clip_ends_where_it_ends(tmp_path: Path) -> None:
    """Twenty places: one clear line, or what decodes, told in numbers, as ffmpeg counts it."""
    whole = clip(tmp_path / "whole.mp4", "-c:v", "libx264", "-g", 5, "-movflags", "+faststart",
                 seconds=3)  # fmt: skip
    data = whole.read_bytes()
    generator = np.random.default_rng(0)
    kinds = set()
    for place in generator.integers(1, len(data) - 200, 20):
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(data[:place])
        try:
            result = make(cut, tmp_path / "out", look=BARE)
        except DataError as error:
            assert "cut.mp4" in str(error) and "\n" not in str(error)
            kinds.add("nothing")
            continue
        assert result.fault is not None
        assert f"{result.frames} of 30 frames" in str(result.fault)
        assert len(look(result.path).frames) == result.frames < 30
        kinds.add("part")
    assert kinds == {"nothing", "part"}
    assert not list((tmp_path / "out").glob(".*"))


def test_fewer_frames_than_the_index_lists_are_a_fault(tmp_path: Path) -> None:
    info = probe(clip(tmp_path / "in.mp4"))
    for frames, fault in ((10, None), (40, "truncated or damaged")):
        reader = VideoReader(replace(info, frames=frames))
        assert len(list(reader)) == 10
        assert reader.fault() == fault
        reader.close()


def test_a_cut_that_keeps_earlier_frames_for_decoding_is_whole(tmp_path: Path) -> None:
    """Phones and editors cut by an edit list; the samples before it are not shown."""
    x264 = ("-c:v", "libx264", "-g", "20", "-pix_fmt", "yuv420p")
    whole = clip(tmp_path / "in.mp4", *x264, seconds=4)
    assert probe(whole).exact and probe(whole).frames == 40, "B-frames shift, and cut nothing"
    cut = tmp_path / "cut.mp4"
    ffmpeg("-ss", "1.5", "-i", whole, "-c", "copy", cut)
    result = make(cut, tmp_path / "out", look=BARE)
    assert result.fault is None and 24 <= result.frames <= 26


def test_a_video_among_many_streams_is_found(tmp_path: Path) -> None:
    film = clip(tmp_path / "in.mkv", "-c:v", "libx264", "-c:a", "libmp3lame", sound=True)
    maps = [word for _ in range(8) for word in ("-map", "0:a")]
    tags = [w for i in range(8) for k in range(8) for w in (f"-metadata:s:a:{i}", f"K{k}=x")]
    many = tmp_path / "many.mkv"
    ffmpeg("-i", film, "-map", "0:v", *maps, "-c", "copy", *tags, many)
    info = probe(many)
    assert info.duration == pytest.approx(1, abs=0.1) and info.audio == "mp3"


def test_the_sound_ends_with_a_part_of_a_video(tmp_path: Path) -> None:
    source = clip(tmp_path / "in.mp4", "-c:v", "libx264", "-c:a", "aac", sound=True, seconds=3)
    result = make(source, tmp_path / "out", limit=10)
    assert (result.frames, result.fault) == (10, None)
    assert "Duration: 00:00:01.0" in describe(result.path)
    assert "Audio" not in describe(make(source, tmp_path / "quiet", audio=False).path)


def test_sound_that_browsers_do_not_play_becomes_aac(tmp_path: Path) -> None:
    source = clip(tmp_path / "in.avi", "-c:v", "mpeg4", "-c:a", "pcm_s16le", sound=True)
    assert "Audio: aac" in describe(make(source, tmp_path / "out").path)


def test_masks_are_the_class_maps(tmp_path: Path) -> None:
    for index in range(3):
        write_image(tmp_path / "drive" / f"f{index}.png", blocks(index, 32, 48))
    make(tmp_path / "drive", tmp_path / "out", masks=tmp_path / "masks")
    for index in range(3):
        with Image.open(tmp_path / "masks" / "drive" / f"{index:06d}.png") as mask:
            assert mask.mode == "P"
            assert (np.asarray(mask) == blocks(index, 32, 48)[:, :, 0] // 64).all()
    (tmp_path / "masks" / "drive" / "notes.png").write_text("somebody's own")
    make(tmp_path / "drive", tmp_path / "out", masks=tmp_path / "masks", limit=1)
    left = sorted(mask.name for mask in (tmp_path / "masks" / "drive").iterdir())
    assert left == ["000000.png", "notes.png"], "none of the video before"


def test_folders_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for index in (10, 9, 100):
        write_image(
            tmp_path / "drive" / f"frame_{index}.png", np.full((32, 32, 3), index, np.uint8)
        )
    (tmp_path / "drive" / "motion.json").write_text("{}")
    look_at = Look(opacity=0, legend=False)
    result = make(tmp_path / "drive", tmp_path / "out", rate=10, look=look_at, crf=1)
    seen = look(result.path)
    assert [round(float(frame.mean())) for frame in seen.frames] == pytest.approx(
        [9, 10, 100], abs=2
    )
    assert seen.times == pytest.approx([0, 0.1, 0.2], abs=1e-4)
    write_image(tmp_path / "drive" / "frame_101.png", np.zeros((32, 40, 3), np.uint8))
    with pytest.raises(DataError, match="40x32 among frames of 32x32"):
        make(tmp_path / "drive", tmp_path / "out")


def test_what_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    os.mkfifo(tmp_path / "pipe.mp4")
    write_image(tmp_path / "picture.png", blocks(0))
    clip(tmp_path / "tone.mp4", "-map", "1:a", "-c:a", "aac", sound=True)
    for name in ("empty", "none.mp4", "text.mp4", "pipe.mp4", "picture.png", "tone.mp4", "nothing"):
        with pytest.raises(DataError, match=name):
            make(tmp_path / name, tmp_path / "out")
    same = clip(tmp_path / "same.mp4")
    with pytest.raises(DataError, match="overwritten"):
        find_jobs([str(same)], tmp_path)
    with pytest.raises(DataError, match=r"written as SAME\.mp4"):
        find_jobs([str(same), str(clip(tmp_path / "SAME.avi"))], tmp_path / "out")
    with pytest.raises(SegcliError):
        make(same, tmp_path / "text.mp4")
    (tmp_path / "frames").mkdir()
    find_jobs([str(tmp_path / "frames")], tmp_path / "out", tmp_path / "masks")
    with pytest.raises(DataError, match="among these frames"):
        find_jobs([str(tmp_path / "frames")], tmp_path / "out", tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [(["--smooth-strength", "0.5"], "add --smooth"), (["--fps", "3"], "a video keeps its own")],
)
def test_options_that_would_say_nothing(tmp_path: Path, words: list[str], says: str) -> None:
    app = Typer()
    app.command()(video)
    result = CliRunner().invoke(app, [str(clip(tmp_path / "in.mp4")), *words])
    assert isinstance(result.exception, UsageError) and says in str(result.exception)


def test_a_symlink_is_replaced_and_not_followed(tmp_path: Path) -> None:
    source, victim = clip(tmp_path / "in.mp4"), tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "in.mp4").symlink_to(victim)
    assert look(make(source, tmp_path / "out").path).frames
    assert victim.read_text() == "precious"


def test_a_webcam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[int] = []
    before = cv2.utils.logging.getLogLevel()

    class Camera:
        def __init__(self, number: int) -> None:
            self.number = number
            levels.append(cv2.utils.logging.getLogLevel())

        def isOpened(self) -> bool:  # noqa: N802 (cv2's name)
            return self.number == 1

        def read(self) -> tuple[bool, np.ndarray]:
            time.sleep(0.01)
            return True, blocks(0)

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    with pytest.raises(DataError, match="no webcam 0"):
        make("0", tmp_path)
    # OpenCV is silent while it looks for the camera, and not longer.
    assert levels == [cv2.utils.logging.LOG_LEVEL_SILENT]
    assert cv2.utils.logging.getLogLevel() == before
    result = make("1", tmp_path, limit=5)
    monkeypatch.undo()
    assert len(look(tmp_path / "camera-1.mp4").frames) == result.frames == 5


def test_ctrl_c_leaves_a_playable_file(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "demo", tmp_path)
    clip(tmp_path / "short.mp4", "-c:v", "libx264", "-c:a", "aac", seconds=2, sound=True)
    ffmpeg("-stream_loop", 500, "-i", tmp_path / "short.mp4", "-c", "copy", tmp_path / "in.mp4")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen(
        [sys.executable, "-m", "segcli", "video", "in.mp4", "--device", "cpu"],
        **{"cwd": tmp_path, "env": environment, "start_new_session": True, "text": True},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
    )
    try:
        deadline = time.monotonic() + 60
        while not any((tmp_path / "videos").glob(".*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said and "stopped after" in said
    frames = int(said.split("stopped after ")[1].split()[0])
    assert len(look(tmp_path / "videos/in.mp4").frames) == frames > 0
    assert [p.name for p in (tmp_path / "videos").iterdir()] == ["in.mp4"]
    assert "Audio" in describe(tmp_path / "videos/in.mp4")


def test_a_failing_encoder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clip(tmp_path / "in.mp4")
    with pytest.raises(OutputError, match="encoder"):
        make(source, tmp_path / "out", preset="no such preset")
    assert not list((tmp_path / "out").iterdir())


def test_rates_and_indices(tmp_path: Path) -> None:
    assert [str(exact_rate(r)) for r in (29.97, 23.98, 59.94, 25, 12.5, 15)] == [
        *("30000/1001", "24000/1001", "60000/1001", "25", "25/2", "15")
    ]
    assert mp4_frames(clip(tmp_path / "a.mp4", rate=7, seconds=2), 0) == 14
    assert mp4_frames(clip(tmp_path / "a.mkv"), 0) is None
    fragmented = clip(tmp_path / "f.mp4", "-movflags", "+frag_keyframe+empty_moov")
    assert mp4_frames(fragmented, 0) is None
    assert make(fragmented, tmp_path / "out").fault is None


@pytest.mark.parametrize(("every", "smooth"), [(3, None), (1, 0.65), (3, 0.65)])
def test_reuse_and_smoothing_from_end_to_end(
    tmp_path: Path, every: int, smooth: float | None
) -> None:
    still = blocks(3, 48, 64)
    for index in range(8):
        shot = still if index < 5 else 255 - still
        write_image(tmp_path / "drive" / f"{index}.png", shot)
    masks = tmp_path / "masks"
    result = make(tmp_path / "drive", tmp_path / "out", every=every, smooth=smooth, masks=masks)
    assert len(look(result.path).frames) == result.frames == 8
    if smooth:
        assert result.flicker == pytest.approx((0, 0), abs=0.01)
    for index in range(8):  # frame 7 is moved along, frame 5 begins a shot and is predicted
        with Image.open(masks / "drive" / f"{index:06d}.png") as mask:
            truth = (still if index < 5 else 255 - still)[:, :, 0] // 64
            assert (np.asarray(mask) == truth).mean() > (0.85 if smooth else 0.99)
