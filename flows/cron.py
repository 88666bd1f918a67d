"""When a cron text is due: by croniter as Prefect's scheduler does, in the wall time of a zone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from pipeline.errors import SegtrailError, collect

CRON = "nightly.cron"
TIMEZONE = "nightly.timezone"
CRON_FIX = 'minute hour day month weekday, such as "0 2 * * *" (02:00 every night) or "30 1 * * mon-fri"'


def check_schedule(cron: str, timezone: str) -> None:
    """Checks a cron text and the name of its time zone.

    Raises:
        SegtrailError: One of them is wrong; both are told.
    """
    errors = []
    if problem := _cron_problem(cron):
        errors.append(SegtrailError(f"the cron text {cron!r} is wrong: {problem}", CRON, CRON_FIX))
    if timezone not in available_timezones():
        near = get_close_matches(timezone, available_timezones(), 3, 0.5)
        meant = f" ({' or '.join(near)}?)" if near else ""
        errors.append(
            SegtrailError(
                f"there is no time zone {timezone!r}{meant}", TIMEZONE, "a name such as Europe/Vienna, or UTC"
            )
        )
    if errors:
        raise collect(errors)


def next_times(cron: str, timezone: str, count: int, after: datetime | None = None) -> list[datetime]:
    """The next times that a checked cron text is due, in its zone.

    A time that the clock skips in spring comes an hour earlier (later, with Python 3.13 and above); one that
    comes twice in autumn counts once, the first time. Both as Prefect's scheduler has it.

    Args:
        cron: The text.
        timezone: IANA name.
        count: How many.
        after: They are later than this; default: now.
    """
    after = after or datetime.now(UTC)
    found: list[datetime] = []
    for due in _walk(cron, timezone, after, "get_next"):
        if due > after and due not in found:
            found.append(due)
            if len(found) == count:
                break
    return sorted(found)


def last_time(cron: str, timezone: str, before: datetime) -> datetime:
    """The last time, not later than `before`, that a checked cron text was due, in its zone."""
    return next(due for due in _walk(cron, timezone, before, "get_prev") if due <= before)


def show_time(due: datetime) -> str:
    """A time for a person, with its offset, such as "Sat 2026-11-28 02:00 +01:00"."""
    seconds = f":{due:%S}" if due.second else ""
    return f"{due:%a %Y-%m-%d %H:%M}{seconds} {due.isoformat()[-6:]}"


def _walk(cron: str, timezone: str, start: datetime, step: str) -> Iterator[datetime]:
    zone = ZoneInfo(timezone)
    clock = _croniter().croniter(cron, start.astimezone(zone).replace(tzinfo=None, microsecond=0))
    if step == "get_prev" and _croniter().croniter.match(cron, clock.get_current(datetime)):
        yield _in_zone(clock.get_current(datetime), zone)
    while True:
        yield _in_zone(getattr(clock, step)(datetime), zone)


def _in_zone(wall: datetime, zone: ZoneInfo) -> datetime:
    due = wall.replace(tzinfo=zone).astimezone(UTC).astimezone(zone)
    if due.replace(tzinfo=None) == wall or sys.version_info >= (3, 13):
        return due
    return wall.replace(tzinfo=zone, fold=1).astimezone(UTC).astimezone(zone)  # as Prefect does up to here


def _cron_problem(cron: str) -> str:
    library = _croniter()
    try:
        library.croniter.expand(cron)
        if any(part.casefold() in ("r", "h") for part in cron.split()):
            return "H and R are not supported"
        library.croniter(cron, datetime.now(UTC).replace(tzinfo=None)).get_next(datetime)
    except library.CroniterBadDateError:
        return "such a day never comes"
    except (library.CroniterError, KeyError) as error:
        return str(error) or "it cannot be read"
    return ""


@cache
def _croniter() -> Any:
    """Prefect's copy of croniter, loaded without the rest of Prefect."""
    package = find_spec("prefect")
    if package is None or package.origin is None:
        raise SegtrailError("Prefect is not installed", "prefect", "make setup")
    folder = Path(package.origin).parent / "_vendor" / "croniter"
    spec = spec_from_file_location(
        "_croniter", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise SegtrailError("Prefect has no croniter", str(folder), "rm -f .venv/.ready && make setup")
    module = module_from_spec(spec)
    sys.modules["_croniter"] = module
    spec.loader.exec_module(module)
    return module
