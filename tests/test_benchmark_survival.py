"""The short form of benchmarks/survival.py: real signals to real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "survival.py"


def test_killed_stopped_and_starved_runs_end_with_the_same_weights() -> None:
    few = {"runs": 2, "kills": 2, "terms": 1, "starved": 1, "workers": 1}
    words = [word for name, count in few.items() for word in (f"--{name}", str(count))]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 faults" in done.stdout
