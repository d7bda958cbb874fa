"""Reporters: what a reader, TensorBoard and a script get; and that a full disk stops nothing."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from segcli.reporting.console import ConsoleReporter
from segcli.reporting.events import NullReporter, Reporter, Reporters
from segcli.reporting.jsonl import JsonLinesReporter
from segcli.reporting.tensorboard import TensorBoardReporter


def console(terminal: bool) -> tuple[ConsoleReporter, io.StringIO]:
    out = io.StringIO()
    return ConsoleReporter(console=Console(file=out, force_terminal=terminal, width=100)), out


def test_a_pipe_gets_plain_whole_lines():
    reporter, out = console(False)
    long_path = "/data/" + "x" * 300
    reporter.message(f"[bold]not markup[/bold] {long_path} \x1b[31m:smile:")
    reporter.warning("mind this")
    with reporter.progress("training", 10, unit="steps") as progress:
        for _ in range(10):
            progress.advance(loss=0.123456)
    lines = out.getvalue().splitlines()
    assert lines[0] == f"[bold]not markup[/bold] {long_path} \N{REPLACEMENT CHARACTER}[31m:smile:"
    assert lines[1] == "warning: mind this"
    assert len(lines) == 3
    assert lines[2].startswith("training 10/10") and lines[2].endswith("loss 0.1235")
    assert "\x1b" not in out.getvalue() and "\r" not in out.getvalue()


def test_a_pipe_gets_a_line_every_tenth(monkeypatch):
    reporter, out = console(False)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with reporter.progress("training", 100, unit="steps") as progress:
        for _ in range(100):
            now[0] += 1.0
            progress.advance()
    lines = out.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "training 10/100  1.0 steps/s  0:00:10  left 0:01:30"


def test_a_terminal_gets_bars_that_nest():
    reporter, out = console(True)
    with reporter.progress("outer", 2) as outer:
        for _ in range(2):
            with reporter.progress("inner", 3, unit="images") as inner:
                for _ in range(3):
                    inner.advance(miou=0.5)
            reporter.message("between")
            outer.advance()
    text = out.getvalue()
    assert "\x1b[" in text and "outer" in text and "inner" in text and "between" in text
    last = [line for line in text.splitlines() if "er" in line][-1]
    assert "outer" in last and "2/2" in last and "inner" not in last.split("outer")[-1]


def test_a_bar_is_closed_when_its_block_fails():
    reporter, out = console(True)
    with pytest.raises(KeyError), reporter.progress("work", 3):
        raise KeyError
    assert out.getvalue().endswith("\x1b[?25h"), "the cursor is shown again"


def test_tables_are_whole_in_a_narrow_pipe():
    reporter, out = console(False)
    name = "a class with quite a long name " * 6
    reporter.table("Scores [x]", ["class", "IoU %"], [[name.strip(), "91.25"], ["sky", "-"]])
    text = out.getvalue()
    assert "Scores [x]" in text and name.strip() in text
    rows = [line.rstrip() for line in text.splitlines() if "91.25" in line or "sky" in line]
    assert rows[0].index("91.25") + 5 == len(rows[0])
    assert rows[1].index("-") + 1 == len(rows[0]), "numbers are flush right"


def test_json_lines_read_back(tmp_path):
    path = tmp_path / "deep" / "log.jsonl"
    reporter = JsonLinesReporter(path)
    reporter.scalar("loss/total", 0.5, 3)
    reporter.scalar("loss/total", float("nan"), 4)
    reporter.table("t", ["a"], [["ä"]])
    reporter.message("two\nlines")
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    reporter.done()
    assert [line["event"] for line in lines] == ["scalar", "scalar", "table", "message"]
    assert lines[0] | {"time": 0} == {
        "time": 0,
        "event": "scalar",
        "name": "loss/total",
        "value": 0.5,
        "step": 3,
    }
    assert lines[1]["value"] is None
    assert lines[2]["rows"] == [["ä"]] and lines[3]["text"] == "two\nlines"


def test_json_lines_go_on_after_a_torn_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"event": "scalar"}\n{"event": "sca')
    reporter = JsonLinesReporter(path)
    reporter.message("resumed")
    reporter.done()
    lines = path.read_text().splitlines()
    assert len(lines) == 3 and json.loads(lines[2])["text"] == "resumed"


def test_tensorboard_reads_what_was_logged(tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    reporter = TensorBoardReporter(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    for step in range(5):
        reporter.scalar("loss/total", 1 / (step + 1), step)
    reporter.image("val/panel", image, 2)
    reporter.table("scores", ["class", "IoU"], [["sky", "0.9"]])
    reporter.done()
    resumed = TensorBoardReporter(tmp_path, purge_step=3)
    resumed.scalar("loss/total", 9.0, 3)
    resumed.done()
    log = event_accumulator.EventAccumulator(str(tmp_path))
    log.Reload()
    values = [(e.step, round(e.value, 4)) for e in log.Scalars("loss/total")]
    assert values == [(0, 1.0), (1, 0.5), (2, 0.3333), (3, 9.0)]
    assert "scores/text_summary" in log.Tags()["tensors"]
    (shown,) = log.Images("val/panel")
    assert (shown.step, shown.height, shown.width) == (2, 6, 9)
    with Image.open(io.BytesIO(shown.encoded_image_string)) as read:
        assert (np.asarray(read) == image).all()


def test_a_full_disk_stops_no_training(tmp_path):
    """Files end at 4 KB here: one warning each, and the loop runs to its end."""
    pytest.importorskip("resource")
    code = """
    import resource, sys, warnings
    import numpy as np
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    from segcli.reporting.jsonl import JsonLinesReporter
    from segcli.reporting.tensorboard import TensorBoardReporter
    from segcli.reporting import tensorboard
    tensorboard._FLUSH_EVERY_S = 0.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for reporter in (JsonLinesReporter(sys.argv[1] + "/x.jsonl"),
                         TensorBoardReporter(sys.argv[1])):
            for step in range(500):
                reporter.scalar("loss", 1.0, step)
                reporter.image("p", np.zeros((8, 8, 3), np.uint8), step)
            reporter.done()
    print([str(w.message).split(":")[0] for w in caught])
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert run.stdout.strip() == str(
        ["log stopped (File too large)", "TensorBoard log stopped (File too large)"]
    )


def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="stopped"):
        board = TensorBoardReporter(tmp_path / "file" / "tb")
    with pytest.warns(UserWarning, match="stopped"):
        lines = JsonLinesReporter(tmp_path / "file" / "log.jsonl")
    for reporter in (board, lines):
        reporter.scalar("loss", 1.0, 0)
        reporter.table("t", ["a"], [["b"]])
        reporter.done()


def test_fan_out_reaches_everyone():
    seen = []

    class Spy(NullReporter):
        def __init__(self, name):
            self.name = name

        def scalar(self, name, value, step):
            seen.append((self.name, name, value, step))

        def done(self):
            seen.append((self.name, "done"))

    reporters: Reporter = Reporters(Spy("a"), Spy("b"))
    reporters.scalar("x", 1.0, 2)
    with reporters.progress("p", 2, unit="u") as progress:
        progress.advance(2, loss=1)
    reporters.done()
    assert seen == [("a", "x", 1.0, 2), ("b", "x", 1.0, 2), ("a", "done"), ("b", "done")]


def test_a_reporter_whose_disk_is_full_is_left_out_and_the_others_go_on() -> None:
    class Full(NullReporter):
        def message(self, text: str) -> None:
            raise OSError(28, "No space left on device")

    class Kept(NullReporter):
        def __init__(self) -> None:
            self.texts: list[str] = []

        def message(self, text: str) -> None:
            self.texts.append(text)

    kept = Kept()
    several = Reporters(Full(), kept)
    several.message("one")
    several.message("two")
    assert kept.texts == ["one", "two"]
