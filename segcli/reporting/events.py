"""The Reporter protocol: recipes report, reporters record, and no recipe asks who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Progress(Protocol):
    """A running count towards a total."""

    def advance(self, steps: int = 1, **fields: Any) -> None:
        """Count `steps` on; `fields` (loss=0.41, say) stand beside the bar."""


class Reporter(Protocol):
    """What a recipe may tell the world."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """A number at a training step; names are paths such as ``loss/total``."""

    def image(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """An RGB picture, uint8 (H, W, 3)."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows of text under column headings."""

    def message(self, text: str) -> None:
        """One line for the reader."""

    def warning(self, text: str) -> None:
        """One line that asks for attention."""

    def progress(
        self, title: str, total: int, *, unit: str = ""
    ) -> AbstractContextManager[Progress]:
        """A progress display that lives as long as the block.

        Args:
            total: steps to come; 0 where nobody knows.
            unit: what is counted.
        """

    def done(self) -> None:
        """Flush and close; nothing is reported afterwards."""


class _NullProgress:
    def advance(self, steps: int = 1, **fields: Any) -> None:
        pass


class NullReporter:
    """Listens to nothing: the reporter of tests, of rank 1 and up, and a base to build on."""

    def scalar(self, name: str, value: float, step: int) -> None:
        pass

    def image(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        pass

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def warning(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, title: str, total: int, *, unit: str = "") -> Iterator[Progress]:
        yield _NullProgress()

    def done(self) -> None:
        pass


class _Several:
    def __init__(self, members: Sequence[Progress]) -> None:
        self._members = list(members)

    def advance(self, steps: int = 1, **fields: Any) -> None:
        for member in list(self._members):
            try:
                member.advance(steps, **fields)
            except OSError:
                self._members.remove(member)


class Reporters(NullReporter):
    """Passes every event on to several reporters, in order.

    A reporter that cannot write any more, its disk or its pipe being full or gone, is left out
    from then on: a log never stops the work that it tells of.
    """

    def __init__(self, *members: Reporter) -> None:
        self._members = list(members)

    def scalar(self, name: str, value: float, step: int) -> None:
        self._tell(lambda member: member.scalar(name, value, step))

    def image(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        self._tell(lambda member: member.image(name, image, step))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._tell(lambda member: member.table(title, columns, rows))

    def message(self, text: str) -> None:
        self._tell(lambda member: member.message(text))

    def warning(self, text: str) -> None:
        self._tell(lambda member: member.warning(text))

    def done(self) -> None:
        self._tell(lambda member: member.done())

    def _tell(self, event: Callable[[Reporter], None]) -> None:
        for member in list(self._members):
            try:
                event(member)
            except OSError:
                self._members.remove(member)

    @contextmanager
    def progress(self, title: str, total: int, *, unit: str = "") -> Iterator[Progress]:
        with ExitStack() as stack:
            members = [m.progress(title, total, unit=unit) for m in self._members]
            yield _Several([stack.enter_context(member) for member in members])
