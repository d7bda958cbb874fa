"""Twenty hostile inputs: no request goes out, no other file is read, one clear line comes back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import one_thread  # noqa: F401
from video_zoo import clip, make

from segcli.errors import DataError


class Listener:
    """Waits on the loopback interface and counts who comes."""

    def __init__(self) -> None:
        self.visits = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:
                return
            self.visits += 1
            visitor.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


# What could be meant by a name, where no such file is.
NAMES = [
    "http://127.0.0.1:{port}/a.mp4",
    "tcp://127.0.0.1:{port}",
    "rtmp://127.0.0.1:{port}/live",
    "hls+http://127.0.0.1:{port}/a.m3u8",
    "async:http://127.0.0.1:{port}/a.mp4",
    "concat:{secret}|{secret}",
    "subfile,,start,0,end,0,,:{secret}",
    "data:video/mp4;base64,AAAA",
    "crypto:{secret}",
    "pipe:0",
]
# What a file could make ffmpeg open; {secret} is a whole video elsewhere on the disk.
FILES = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n",
    "web.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:{port}/a.ts\n",
    "list.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:{secret}\n#EXT-X-ENDLIST\n",
    "concat.mp4": "ffconcat version 1.0\nfile '{secret}'\n",
    "concat.ffconcat": "ffconcat version 1.0\nfile 'http://127.0.0.1:{port}/a.mp4'\n",
    "dash.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>http://127.0.0.1:{port}/a.mp4</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "picture.svg": '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">'
    '<image href="http://127.0.0.1:{port}/a.png" width="9" height="9"/></svg>',
    "script.avs": 'FFVideoSource("{secret}")\n',
    "frame%d.mjpg.txt": "file:{secret}",
}


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("elsewhere") / "secret.mp4")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_local_file_or_nothing(
    in_tmp: Path, listener: Listener, secret: Path, name: str
) -> None:
    name = name.format(port=listener.port, secret=secret)
    with pytest.raises(DataError, match="no such file"):
        make(name, in_tmp / "out")
    assert listener.visits == 0
    assert not (in_tmp / "out").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_file_opens_no_other(in_tmp: Path, listener: Listener, secret: Path, name: str) -> None:
    text = FILES[name].replace("{port}", str(listener.port)).replace("{secret}", str(secret))
    Path(name).write_text(text)
    with pytest.raises(DataError) as caught:
        make(name, in_tmp / "out")
    assert name.partition("%")[0] in str(caught.value) and "\n" not in str(caught.value)
    assert listener.visits == 0
    assert not list((in_tmp / "out").glob("*"))


def test_the_listener_does_hear(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that cannot fail is none: ffmpeg without our options does call."""
    import subprocess

    from segcli.inference.video_ffmpeg import ffmpeg_path

    url = f"http://127.0.0.1:{listener.port}/a.mp4"
    subprocess.run([ffmpeg_path(), "-nostdin", "-i", url], capture_output=True, timeout=30)
    assert listener.visits > 0


def test_a_playlist_would_be_read_without_the_whitelist(in_tmp: Path, secret: Path) -> None:
    """So would the foreign file."""
    import subprocess

    from segcli.inference.video_ffmpeg import ffmpeg_path

    Path("a.ffconcat").write_text(f"ffconcat version 1.0\nfile '{secret}'\n")
    command = [ffmpeg_path(), "-nostdin", "-safe", "0", "-i", "a.ffconcat", "-f", "null", "-"]
    assert subprocess.run(command, capture_output=True, timeout=30).returncode == 0


def test_a_text_named_like_a_video_is_called_no_video(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("milk, bread and a new bicycle\n")
    with pytest.raises(DataError, match="not a video, or truncated: its index is missing"):
        make(tmp_path / "notes.mp4", tmp_path / "out")


def test_a_huge_picture_is_refused(tmp_path: Path) -> None:
    source = clip(tmp_path / "huge.mkv", "-vf", "scale=16000:4000", "-frames:v", 1, "-c:v", "mjpeg")
    with pytest.raises(DataError, match=r"huge\.mkv"):
        make(source, tmp_path / "out")
