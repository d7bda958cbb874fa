"""What `segcli predict` may be given: files, folders, globs, a list on stdin; and their names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from segcli.data.images import IMAGE_SUFFIXES
from segcli.errors import DataError, UsageError

MASKS, OVERLAYS, CONFIDENCE = "masks", "overlays", "confidence"
FOLDERS = (MASKS, OVERLAYS, CONFIDENCE)
STDIN = "-"


@dataclass(frozen=True)
class Job:
    """A picture to predict, and its name below `masks/` and `overlays/`, without suffix."""

    image: Path
    name: str

    @property
    def file_name(self) -> str:
        return f"{self.name}.png"


def find_jobs(inputs: Sequence[str], out: Path, stdin: BinaryIO | None = None) -> list[Job]:
    """Files, folders (recursively), globs and a list as pictures with a name each.

    A file is named by its stem; what a folder or a glob finds keeps its place below the folder
    or below the part of the glob without a wildcard, and a list below the folder that all of it
    lies in. Earlier results in `out` are not taken for input when a folder or a glob happens to
    hold them.

    Args:
        stdin: where ``-`` reads paths, one a line, or ended by NUL as `find -print0` does.

    Raises:
        DataError: nothing there, or two pictures whose results would have one name.
        UsageError: ``-`` without a list.
    """
    jobs: dict[Path, Job] = {}
    for text in inputs:
        found = list(_listed(stdin) if text == STDIN else _expand(text, out))
        if not found:
            raise DataError("no images here", file=text, hint=f"known: {' '.join(IMAGE_SUFFIXES)}")
        for job in found:
            # Of two names of one picture, links say, each has its result.
            jobs.setdefault(Path(os.path.abspath(job.image)), job)
    _refuse_collisions(jobs, out)
    return list(jobs.values())


def _refuse_collisions(jobs: dict[Path, Job], out: Path) -> None:
    names: dict[str, Job] = {}
    for job in jobs.values():
        # Some file systems take a.png and A.png for one file.
        other = names.setdefault(job.name.casefold(), job)
        if other is not job:
            raise DataError(
                f"two images would be written as {job.file_name}",
                file=job.image,
                hint=f"the other is {other.image}; predict them into two --out folders",
            )
    places = [_real(out / folder) for folder in FOLDERS]
    images = {_real(image) for image in jobs}
    if not any(image.is_relative_to(place) for image in images for place in places):
        return
    for job in jobs.values():
        for folder in FOLDERS:
            if _real(out / folder / job.file_name) in images:
                raise DataError(
                    "this image would be overwritten",
                    file=out / folder / job.file_name,
                    hint="choose another --out folder",
                )


def _listed(stdin: BinaryIO | None) -> Iterator[Job]:
    """The paths of a list; a file of it that is missing is found out when it is read."""
    if stdin is None:
        raise UsageError("'-' reads a list of images from stdin, and there is none")
    data = stdin.read()
    separator = b"\0" if b"\0" in data else b"\n"
    lines = [line.removesuffix(b"\r") if separator == b"\n" else line
             for line in data.split(separator)]  # fmt: skip
    paths = [Path(os.path.abspath(os.fsdecode(line))) for line in lines if line]
    if not paths:
        return
    # Given paths, not where links lead: the list says how the results are to lie.
    common = Path(os.path.commonpath([path.parent for path in paths]))
    for line, path in zip([line for line in lines if line], paths, strict=True):
        place = path.relative_to(common).with_suffix("")
        yield Job(Path(os.fsdecode(line)), place.as_posix())


def _expand(text: str, out: Path) -> Iterator[Job]:
    path = Path(text)
    if path.is_dir():
        yield from _walk(path, path, out)
    elif path.exists():
        yield Job(path, path.stem)
    elif glob.has_magic(text):
        base = _plain_part(path)
        for name in sorted(glob.glob(text, recursive=True)):
            match = Path(name)
            if match.is_dir() and "**" not in text:
                yield from _walk(match, base, out)
            elif _is_image(match) and not _is_in(match, out):
                yield Job(match, _place(match, base))
    else:
        raise DataError("no such file or folder", file=text)


def _plain_part(pattern: Path) -> Path:
    """The folders before the first wildcard."""
    parts: list[str] = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _walk(folder: Path, base: Path, out: Path) -> Iterator[Job]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if _is_image(path) and not hidden and not _is_in(path, out):
            yield Job(path, _place(path, base))


def _place(path: Path, base: Path) -> str:
    return path.relative_to(base).with_suffix("").as_posix()


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def _is_in(path: Path, out: Path) -> bool:
    """Whether `path` is an earlier result."""
    return any(_real(path).is_relative_to(_real(out / name)) for name in FOLDERS)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
