"""One line a case or epoch, with the time that is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LOGGER = logging.getLogger("segtrail")
EVERY_S = 30.0


def format_seconds(seconds: float) -> str:
    """Short text of a duration: "42 s", "3 min 05 s", "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Logs one line an item: `label 3/40 case_012 (ETA 12 s)`.

    Args:
        label: What is being done, such as "inspect".
        total: Number of items.
    """

    def __init__(self, label: str, total: int) -> None:
        self.label = label
        self.total = total
        self.done = 0
        self.started = time.monotonic()

    def step(self, text: str) -> None:
        """Logs that one more item is done."""
        self.done += 1
        eta = (time.monotonic() - self.started) / self.done * max(self.total - self.done, 0)
        left = f"ETA {format_seconds(eta)}" if self.done < self.total else "done"
        LOGGER.info("%s %d/%d %s (%s)", self.label, self.done, self.total, text, left)


class PartProgress:
    """Logs how far one item has come, at most every `EVERY_S` seconds: an item that takes less has no line.

    Args:
        label: What is being done, such as "case_012: window".
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.started = self.told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Is told the number of parts that are done, and of all."""
        now = time.monotonic()
        if now - self.told < EVERY_S or done == total:
            return
        self.told = now
        eta = (now - self.started) / done * (total - done)
        LOGGER.info("%s %d/%d (ETA %s)", self.label, done, total, format_seconds(eta))


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Yields the items and logs a line after each."""
    progress = Progress(label, total)
    for item in items:
        yield item
        progress.step(str(item))
