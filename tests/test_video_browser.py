"""The finished video in a real browser: does it play, and does it show what was drawn?"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tiny_run import SPACE, one_thread, write_image  # noqa: F401
from video_zoo import make

from segcli.reporting.video import Look

BROWSER = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
# The page is loaded when the video has a frame to show, here the one at the time in the address.
PAGE = """<!doctype html><body><pre id="out">nothing</pre><script>
const v = document.createElement('video'), out = document.getElementById('out');
v.muted = true;
v.onerror = () => { out.textContent = JSON.stringify({error: v.error.message}); };
v.onloadeddata = () => {
  const c = document.createElement('canvas');
  c.width = v.videoWidth; c.height = v.videoHeight;
  const x = c.getContext('2d');
  x.drawImage(v, 0, 0);
  const at = (p, q) => Array.from(x.getImageData(p, q, 1, 1).data).slice(0, 3);
  out.textContent = JSON.stringify({width: c.width, height: c.height, duration: v.duration,
    left: at(16, 40), right: at(80, 40)});
};
v.src = 'data:video/mp4;base64,DATA#t=TIME'; document.body.append(v);
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium installed")
def test_a_browser_plays_the_video(tmp_path: Path) -> None:
    for index in range(20):
        image = np.zeros((64, 96, 3), np.uint8)
        image[:, :48] = 160 if index >= 10 else 30  # house from the second half on
        image[:, 48:] = 230  # sky
        write_image(tmp_path / "drive" / f"{index}.png", image)
    opaque = Look(opacity=1.0, contours=False, legend=False)
    result = make(tmp_path / "drive", tmp_path / "out", look=opaque, rate=10, crf=5)
    data = base64.b64encode(result.path.read_bytes()).decode("ascii")
    page = tmp_path / "page.html"
    page.write_text(PAGE.replace("DATA", data).replace("TIME", "1.55"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    shown = subprocess.run(
        [BROWSER, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = re.search(r'<pre id="out">(.*?)</pre>', shown.stdout)
    assert said is not None, shown.stderr[-500:]
    answer = json.loads(said[1].replace("&quot;", '"'))
    if "error" in answer:
        pytest.skip(f"this Chromium has no H.264: {answer['error']}")
    assert (answer["width"], answer["height"]) == (96, 64)
    assert answer["duration"] == pytest.approx(2.0, abs=0.05)
    for side, index in (("left", 2), ("right", 3)):
        difference = np.array(answer[side]) - SPACE.classes[index].color
        assert np.abs(difference).max() <= 8, side
