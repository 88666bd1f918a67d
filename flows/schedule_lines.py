"""What `segtrail schedule` prints of its nights: one line as each begins, one as it ends."""

from __future__ import annotations

from collections.abc import Iterator

from flows.night_folder import NIGHTS
from flows.nights import RECORD, is_closed, load_night
from pipeline.errors import SegtrailError
from pipeline.progress import format_seconds

DAMAGED = (SegtrailError, OSError, AttributeError, KeyError, TypeError)


class NightLines:
    """Follows the folder of the nights; those that are there already are not told of."""

    def __init__(self) -> None:
        self._known = self._list()
        self._open: list[str] = []

    def look(self) -> Iterator[str]:
        """Lines of what has happened since the last look."""
        for night_id in sorted(self._list() - self._known):
            self._known.add(night_id)
            self._open.append(night_id)
            yield f"night {night_id} has begun"
        for night_id in list(self._open):
            try:
                record = load_night(night_id)
                closed = is_closed(record)
                line = f"{record['state']} after {format_seconds(record['seconds'] or 0)}: {record['reason']}"
            except DAMAGED:  # the sweep of the next night tells of it
                self._open.remove(night_id)
                continue
            if closed:
                self._open.remove(night_id)
                yield f"night {night_id}: {line}"

    @staticmethod
    def _list() -> set[str]:
        try:
            return {path.parent.name for path in NIGHTS.glob(f"*/{RECORD}")}
        except OSError:  # a disk that went away
            return set()
