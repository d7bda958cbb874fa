"""The ffmpeg program: which one, what it may open, and one running process of it.

What a video file may make ffmpeg do is bounded before it looks inside: local files only, known
containers, known codecs. A playlist, a concat script or a network address is refused by name.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from segcli.errors import DataError, SegcliError

# 8K is 33.2 million pixels; more than that is no video that anybody plays.
MAX_PIXELS = 2**25
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,gif,m4v,h264,"
    "hevc,mjpeg,ivf,yuv4mpegpipe,dv,mxf,nut"
)
_VIDEO_CODECS = (
    "h264,hevc,vvc,av1,libdav1d,vp8,vp9,libvpx,libvpx-vp9,mpeg1video,mpeg2video,mpegvideo,mpeg4,"
    "msmpeg4,msmpeg4v1,msmpeg4v2,h263,h263p,h263i,flv,mjpeg,mjpegb,jpeg2000,png,gif,prores,dnxhd,"
    "ffv1,ffvhuff,huffyuv,utvideo,theora,vc1,wmv1,wmv2,wmv3,dvvideo,rawvideo,wrapped_avframe"
)
_AUDIO_CODECS = (
    "aac,aac_latm,mp1,mp1float,mp2,mp2float,mp3,mp3float,ac3,ac3_fixed,eac3,dca,opus,libopus,"
    "vorbis,libvorbis,flac,alac,wavpack,amrnb,amrwb,wmav1,wmav2,adpcm_ms,adpcm_ima_wav,"
    "adpcm_ima_qt,pcm_alaw,pcm_mulaw,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,"
    "pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be"
)
CODECS = f"{_VIDEO_CODECS},{_AUDIO_CODECS}"
_KEPT_MESSAGES, _LONGEST_MESSAGE = 60, 500
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def ffmpeg_path() -> str:
    """The ffmpeg that imageio-ffmpeg brings, or the one it finds.

    Raises:
        SegcliError: when there is none for this platform.
    """
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        raise SegcliError(
            "no ffmpeg for this platform", hint="install ffmpeg, or set IMAGEIO_FFMPEG_EXE"
        ) from None


def file_url(path: Path) -> str:
    """A name that can only mean a local file, whatever characters it holds."""
    return f"file:{os.path.abspath(path)}"


def input_arguments(path: Path) -> list[str]:
    """Options that open `path` and nothing else.

    Raises:
        DataError: no regular file, or an empty one.
    """
    check_file(path)
    return [
        *("-protocol_whitelist", "file", "-format_whitelist", FORMATS),
        *("-codec_whitelist", CODECS, "-max_pixels", str(MAX_PIXELS)),
        *("-i", file_url(path)),
    ]


def check_file(path: Path) -> None:
    """Refuse what is no regular file: a pipe or a device would never end.

    Raises:
        DataError: with what it is.
    """
    try:
        if not path.exists():
            raise DataError("no such file or folder", file=path)
        if not path.is_file():
            raise DataError("not a regular file", file=path)
        if path.stat().st_size == 0:
            raise DataError("empty file", file=path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read ({error})", file=path) from None


class Ffmpeg:
    """One running ffmpeg, reached through pipes.

    It has a session of its own: Ctrl-C is for this program, which then ends its children in
    the order that leaves whole files. Were this program killed, they would end by themselves
    at a closed pipe. Its messages are read in a thread, and the last of them are kept.

    Args:
        arguments: after the program's name; no shell sees them.
        stdin, stdout: whether to connect these.
        kept: how many of its messages are kept, the last ones.
        pass_fds: further descriptors that the process inherits.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        stdin: bool = False,
        stdout: bool = False,
        pass_fds: Sequence[int] = (),
        kept: int = _KEPT_MESSAGES,
    ) -> None:
        self.messages: deque[str] = deque(maxlen=kept)
        self._ended_cpu: float | None = None
        environment = {k: v for k, v in os.environ.items() if k not in ("FFREPORT", "FFMPEG_OPTS")}
        self.process = subprocess.Popen(
            [ffmpeg_path(), "-nostdin", "-hide_banner", *arguments],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
            env={**environment, "AV_LOG_FORCE_NOCOLOR": "1"},
        )
        self._reader = threading.Thread(target=self._read_messages, daemon=True)
        self._reader.start()

    @property
    def stdin(self) -> IO[bytes]:
        """The pipe to it."""
        return _connected(self.process.stdin)

    @property
    def stdout(self) -> IO[bytes]:
        """The pipe from it."""
        return _connected(self.process.stdout)

    def _read_messages(self) -> None:
        with suppress(ValueError, OSError):
            for line in _connected(self.process.stderr):
                text = line[:_LONGEST_MESSAGE].decode("utf-8", "replace").rstrip()
                if text:
                    self.messages.append(text)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended and its messages are read.

        Raises:
            subprocess.TimeoutExpired: when `timeout` seconds have passed.
        """
        if timeout is None and self._ended_cpu is None and hasattr(os, "waitid"):
            with suppress(ChildProcessError, OSError):
                # Its CPU time can be read between its end and the wait that buries it.
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
                self._ended_cpu = self.cpu_seconds()
        code = self.process.wait(timeout)
        self._reader.join(5)
        return code

    def stop(self) -> None:
        """End it now; nothing of it is left afterwards."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError, ValueError):
                    pipe.close()
        self._reader.join(5)
        if self.process.stderr is not None:
            self.process.stderr.close()

    def cpu_seconds(self) -> float:
        """CPU time it has taken; 0 where the system does not say."""
        if self._ended_cpu is not None:
            return self._ended_cpu
        with suppress(OSError, ValueError, IndexError):
            text = Path(f"/proc/{self.process.pid}/stat").read_text(
                encoding="ascii", errors="ignore"
            )
            # Fields 14 and 15 of proc(5), counted behind the name in brackets.
            user, system = text.rpartition(")")[2].split()[11:13]
            return (int(user) + int(system)) / _TICKS
        return 0.0


def _connected(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise ValueError("this pipe is not connected")
    return pipe


def reason(messages: Sequence[str]) -> str:
    """What ffmpeg's messages come to, in a few words; `cannot be decoded` at the least."""
    text = "\n".join(messages)
    known = (
        ("not on whitelist", "a format, codec or address that is not opened here"),
        ("moov atom not found", "not a video, or truncated: its index is missing"),
        ("matches no streams", "there is no video in it"),
        ("does not contain any stream", "there is no video in it"),
        ("Cannot determine format", "not a video"),
        ("No space left on device", "no space left on the disk"),
        ("exceeds specified max pixel count", f"more than {MAX_PIXELS} pixels a frame"),
        ("Invalid data found", "not a video, or a damaged one"),
    )
    for words, meaning in known:
        if words in text:
            return meaning
    last = re.sub(r"\s*@ 0x[0-9a-f]+", "", messages[-1]) if messages else ""
    return f"cannot be decoded{': ' + last[:120] if last else ''}"
