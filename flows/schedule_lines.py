"""What `segtrail schedule` prints of its nights: one line as each begins, one as it ends."""

from __future__ import annotations

from collections.abc import Iterator

from flows.night_folder import NIGHTS
from flows.nights import RECORD, is_closed, load_night
from pipeline.errors import SegtrailError
from pipeline.progress import format_seconds


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
            except SegtrailError:  # damaged, or on a disk that went away: the next night's sweep tells of it
                self._open.remove(night_id)
                continue
            if is_closed(record):
                self._open.remove(night_id)
                took = format_seconds(record["seconds"])
                yield f"night {night_id}: {record['state']} after {took}: {record['reason']}"

    @staticmethod
    def _list() -> set[str]:
        return {path.parent.name for path in NIGHTS.glob(f"*/{RECORD}")}
