"""What a check has to say: findings with stable codes. `docs/checks.md` explains each code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segcli.errors import SegcliError

OK, WARNING, ERROR = "ok", "warning", "error"

# Data sets, raw and prepared.
DATA_SET = "D000-data-set"
MISSING_PARTNER = "D001-missing-partner"
SIZE_MISMATCH = "D002-size-mismatch"
LABEL_VALUES = "D003-label-values"
MASK_FORMAT = "D004-mask-format"
CORRUPT_FILE = "D005-corrupt-file"
SPLIT_LEAK = "D006-duplicate-across-splits"
DUPLICATE = "D007-duplicate-image"
ABSENT_CLASS = "D008-absent-class"
EMPTY_SPLIT = "D009-empty-split"
STALE_LABEL = "D010-stale-label"
MISSING_FILE = "D011-missing-file"
RARE_CLASS = "D012-rare-class"
LAYOUT = "D013-layout"
NOT_PREPARED = "D014-not-prepared"
OTHER_SAMPLES = "D015-other-samples"
UNKNOWN_CLASSES = "D016-unknown-classes"
PACKED_COPY = "D017-packed-copy"
# Configs.
CONFIG = "C001-config"
DATA_FOLDER = "C002-data"
LABEL_SPACE = "C003-label-space"
SPLITS = "C004-splits"
SHARED_SPLIT = "C005-shared-split"
CROP_SIZE = "C006-crop-size"
WEIGHTS = "C007-weights"
DOWNLOAD = "C008-download"
DISK = "C009-disk"
SHARED_MEMORY = "C010-shared-memory"
DEVICE = "C011-device"
BATCH_SIZE = "C012-batch-size"
SOFT_TARGETS = "C013-soft-targets"
MODEL = "C014-model"
# The installation.
PYTHON = "M001-python"
LIBRARY = "M002-library"
TORCH = "M003-torch"
OPENCV = "M004-opencv"
TENSORBOARD = "M005-tensorboard"
ACCELERATOR = "M006-accelerator"
THREADS = "M007-threads"
FFMPEG = "M008-ffmpeg"
MACHINE_SHARED_MEMORY = "M009-shared-memory"
MACHINE_DISK = "M010-disk"


class Finding(NamedTuple):
    """One line of a check.

    Attributes:
        code: a number and a word, such as ``D005-corrupt-file``; they do not change.
        severity: `ok`, `warning` or `error`.
        what: what is so, one clause.
        file: that it is about.
        hint: what to do.
    """

    code: str
    severity: str
    what: str
    file: Path | None = None
    hint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `file` is null where there is none."""
        return self._asdict() | {"file": None if self.file is None else str(self.file)}

    def line(self) -> str:
        """``what: file (hint)``, one line whatever the file is called."""
        return str(SegcliError(self.what, file=self.file, hint=self.hint))


def of_error(code: str, error: SegcliError, hint: str = "") -> Finding:
    """The finding that an error is, once it is caught; its own hint comes first."""
    file = None if error.file is None else Path(error.file)
    return Finding(code, ERROR, error.what, file, error.hint or hint)


def count(findings: Sequence[Finding], severity: str) -> int:
    """How many findings have this severity."""
    return sum(f.severity == severity for f in findings)
