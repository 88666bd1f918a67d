"""When a night is due: worked by hand around changes of the clock, and against Prefect's own scheduler."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from flows.cron import check_schedule, last_time, next_times, show_time
from pipeline.errors import SegtrailError


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def instants(due: list[datetime]) -> list[datetime]:
    """In UTC: Python holds a time that comes twice to be equal to none of another zone."""
    return [time.astimezone(UTC) for time in due]


def test_two_o_clock_in_vienna_around_the_end_of_summer_time() -> None:
    """2026-10-25: 03:00 +02:00 becomes 02:00 +01:00, so 02:00 comes twice and counts once."""
    due = next_times("0 2 * * *", "Europe/Vienna", 3, utc("2026-10-24 12:00"))
    assert instants(due) == [utc("2026-10-25 00:00"), utc("2026-10-26 01:00"), utc("2026-10-27 01:00")]
    assert [show_time(time) for time in due] == [
        "Sun 2026-10-25 02:00 +02:00",
        "Mon 2026-10-26 02:00 +01:00",
        "Tue 2026-10-27 02:00 +01:00",
    ]


def test_two_o_clock_in_vienna_around_the_begin_of_summer_time() -> None:
    """2027-03-28: 02:00 +01:00 becomes 03:00 +02:00, so there is no 02:00; no night is lost, none comes twice."""
    due = next_times("0 2 * * *", "Europe/Vienna", 3, utc("2027-03-26 12:00"))
    assert due[0] == utc("2027-03-27 01:00")
    assert due[1] in (
        utc("2027-03-28 00:00"),
        utc("2027-03-28 01:00"),
    )  # which one depends on Python's version
    assert due[2] == utc("2027-03-29 00:00")


@pytest.mark.parametrize(
    "timezone", ["UTC", "Europe/Vienna", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]
)
@pytest.mark.parametrize(
    "cron", ["0 2 * * *", "30 2 * * *", "0 */6 * * *", "15 3 * * sun", "0 0 1 * *", "@daily", "0 2 29 2 *"]
)
def test_times_are_those_of_prefects_scheduler(cron: str, timezone: str) -> None:
    from prefect.server.schemas.schedules import CronSchedule

    schedule = CronSchedule(cron=cron, timezone=timezone)
    # On the eves of changes of the clock in 2026 and 2027: Vienna, New York, Lord Howe.
    for start in (
        "2026-10-24 12:00:05",
        "2027-03-27 13:00:07",
        "2026-03-08 01:01:01",
        "2026-11-01 01:02",
        "2026-04-04 09:00",
    ):
        wanted = instants(asyncio.run(schedule.get_dates(8, utc(start))))
        assert (
            instants(next_times(cron, timezone, 5, utc(start)))
            == [due for due in wanted if due > utc(start)][:5]
        )


def test_the_last_time_is_never_later_and_the_next_one_never_earlier() -> None:
    for now in (utc("2026-10-25 00:00"), utc("2026-10-25 23:59")):
        assert last_time("0 2 * * *", "Europe/Vienna", now).astimezone(UTC) == utc("2026-10-25 00:00")
    for hour in range(100):
        now = utc("2026-10-23 17:30") + timedelta(hours=hour)
        assert (
            last_time("0 2 * * *", "Europe/Vienna", now)
            <= now
            < next_times("0 2 * * *", "Europe/Vienna", 1, now)[0]
        )


def test_a_sixth_field_is_seconds() -> None:
    due = next_times("* * * * * */20", "UTC", 2, utc("2026-11-27 14:00:01"))
    assert [show_time(time) for time in due] == [
        "Fri 2026-11-27 14:00:20 +00:00",
        "Fri 2026-11-27 14:00:40 +00:00",
    ]


@pytest.mark.parametrize(
    ("cron", "said"),
    [
        ("61 2 * * *", "out of range"),
        ("0 2 * *", "5, 6 or 7 columns"),
        ("0 2 31 2 *", "such a day never comes"),
        ("every night", "columns"),
        ("R 2 * * *", "H and R are not supported"),
        ("0 2 * * frysday", "not acceptable"),
        ("", "columns"),
    ],
)
def test_a_wrong_cron_text_is_one_error_with_a_right_example(cron: str, said: str) -> None:
    with pytest.raises(SegtrailError, match=said) as caught:
        check_schedule(cron, "UTC")
    assert caught.value.where == "nightly.cron"
    assert '"0 2 * * *" (02:00 every night)' in caught.value.fix
    check_schedule("0 2 * * *", "UTC")


def test_a_wrong_time_zone_is_one_error_with_what_may_be_meant() -> None:
    with pytest.raises(SegtrailError, match=r"'Europe/Viena' \(Europe/Vienna") as caught:
        check_schedule("0 2 * * *", "Europe/Viena")
    assert caught.value.where == "nightly.timezone"
    with pytest.raises(SegtrailError, match="2 problems"):
        check_schedule("0 25 * * *", "Mars/Olympus")
