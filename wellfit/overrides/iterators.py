"""What a script iterates over where overrides change the batches of a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class Given(Iterator[Any]):
    """An iterator as an override is given it.

    Attributes:
        items: the iterator itself.
        taken: what the override took of it and has not handed on.
        error: that with which it failed by itself.
    """

    def __init__(self, items: Iterator[Any]) -> None:
        self.items = items
        self.taken: list[Any] = []
        self.error: BaseException | None = None

    def __next__(self) -> Any:
        try:
            item = next(self.items)
        except StopIteration:
            raise  # not kept: an error knows this frame, and with it what it came from
        except BaseException as error:
            self.error = error
            raise
        self.taken.append(item)
        return item

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]


class Changed(Iterator[Any]):
    """What an override makes of an iterator; where it fails, the rest as it is.

    What else is asked of it than the next item, the iterator that the override was given answers. So does it for the
    length, where the override's own iterator has none.

    Args:
        given: what the override was given.
        answer: what it made of that.
        failed: told of its error.
    """

    def __init__(self, given: Given, answer: Iterator[Any], failed: Callable[[Exception], None]) -> None:
        self._given = given
        self._answer: Iterator[Any] | None = answer
        self._failed = failed

    def __next__(self) -> Any:
        if self._answer is not None:
            try:
                item = next(self._answer)
            except StopIteration:
                raise
            except Exception as error:
                if error is self._given.error:  # the script's
                    self._given.error = None
                    raise
                self._failed(error)
                self._answer = None
            else:
                self._given.taken.clear()
                return item
        return self._given.taken.pop(0) if self._given.taken else next(self._given.items)

    def __len__(self) -> int:
        return len(self._answer if hasattr(self._answer, "__len__") else self._given)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_given" not in self.__dict__:  # it is being copied
            raise AttributeError(name)
        return getattr(self._given.items, name)
