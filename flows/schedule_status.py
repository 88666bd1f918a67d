"""`segtrail schedule status`: what is served, when the next nights are, and how the last ones went."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from flows import nights
from flows.archive import VERSIONS
from flows.cron import check_schedule, next_times, show_time
from flows.model_files import load_json
from flows.night_folder import NIGHTS
from flows.schedule_state import find_serving, find_starting, find_url, is_paused
from pipeline.config import load_params

Record = dict[str, Any]
SHOWN = 10  # nights
SHORT = 12  # characters of a sha256
HEAD = ("night", "due", "state", "minutes", "model", "reason")


def tell_status(as_json: bool = False) -> str:
    """The state of the schedule, from files and, when one answers, from the server.

    Args:
        as_json: JSON instead of lines for a person.

    Raises:
        SegtrailError: `params.yaml` is wrong.
    """
    record = collect_status()
    if as_json:
        return json.dumps(record, indent=1, ensure_ascii=False)
    return "\n".join(_lines(record))


def collect_status() -> Record:
    """The same as a record: served, pid, url, since, work_pool, cron, timezone, next, paused, nights, champion.

    `cron` and `timezone` are those that are served, or would be; `params` those of `params.yaml` when they differ.
    """
    params = load_params()
    served, holder, url = find_serving(), find_starting(), find_url()
    cron, timezone = (served or params.nightly).cron, (served or params.nightly).timezone
    check_schedule(cron, timezone)
    wanted = (params.nightly.cron, params.nightly.timezone)
    return {
        "served": served is not None,
        "pid": holder.pid if holder else None,
        "url": url,
        "since": served.since if served else None,
        "work_pool": served.work_pool or None if served else None,
        "cron": cron,
        "timezone": timezone,
        "params": list(wanted) if served and wanted != (cron, timezone) else None,
        "next": [due.isoformat() for due in next_times(cron, timezone, 3)],
        "paused": is_paused(url if served else None),
        "nights": [_shorten(night) for night in nights.load_nights()[-SHOWN:]],
        "champion": _champion(params.register_.model_name),
    }


def _champion(name: str) -> Record | None:
    """From the decision alone: who asks for the state of the schedule does not wait for MLflow."""
    path = VERSIONS / name / "decision.json"
    decision = load_json(path, "register") if path.is_file() else {}
    sha256 = decision.get("champion_after")
    return {"name": name, "bundle_sha256": sha256, "since": decision.get("decided")} if sha256 else None


def _shorten(night: Record) -> Record:
    decision, numbers = night.get("decision") or {}, night.get("version_numbers") or {}
    champion = decision.get("champion_after")
    return {
        "night_id": night["night_id"],
        "trigger": night["trigger"],
        "due": night["due"],
        "state": night["state"],
        "minutes": None if night["seconds"] is None else round(night["seconds"] / 60, 1),
        "reason": night["reason"],
        "fix": night["fix"],
        "model": numbers.get(champion) or (champion[:SHORT] if champion else None),
        "at_work": night["state"] == nights.RUNNING and nights.is_at_work(night),
    }


def _lines(record: Record) -> Iterator[str]:
    yield f"schedule  {_served(record)}"
    if record["params"]:
        cron, timezone = record["params"]
        yield f'          params.yaml says "{cron}" ({timezone}) by now: end segtrail schedule and start it again'
    yield f'cron      "{record["cron"]}" ({record["timezone"]})'
    times = [show_time(datetime.fromisoformat(text)) for text in record["next"]]
    yield f"next      {times[0]}" + ("" if record["served"] and not record["paused"] else ", if it were served"
        if not record["served"] else ", once resumed")  # fmt: skip
    yield from (f"          {text}" for text in times[1:])
    yield f"paused    {'yes: segtrail schedule resume' if record['paused'] else 'no'}"
    if champion := record["champion"]:
        yield f"champion  {champion['name']} {champion['bundle_sha256'][:SHORT]} since {champion['since']}"
    else:
        yield "champion  none yet"
    if not record["nights"]:
        yield "nights    none yet: segtrail night, or segtrail schedule run-now"
        return
    yield ""
    yield from _table([HEAD, *(_row(night, record["timezone"]) for night in reversed(record["nights"]))])
    yield f"reports   {nights.LATEST} (all: {NIGHTS}/)"


def _served(record: Record) -> str:
    if not record["served"]:
        starting = f"process {record['pid']} is about to serve it" if record["pid"] else "segtrail schedule"
        return f"not served: {starting}"
    if record["work_pool"]:
        return f"deployed to work pool {record['work_pool']} at {record['url'] or 'a server that does not answer'}"
    where = record["url"] or "its server does not answer yet"
    return f"served by process {record['pid']} since {record['since']}, {where.removesuffix('/api')}"


def _row(night: Record, timezone: str) -> tuple[str, ...]:
    state = (
        night["state"]
        if night["state"] != nights.RUNNING or night["at_work"]
        else "running (its process is gone)"
    )
    minutes = "" if night["minutes"] is None else f"{night['minutes']:.1f}"
    return (
        *(night["night_id"], _due(night, timezone), state, minutes),
        *(night["model"] or "", night["reason"]),
    )


def _due(night: Record, timezone: str) -> str:
    if night["due"] is None:
        return str(night["trigger"])
    return f"{datetime.fromisoformat(night['due']).astimezone(ZoneInfo(timezone)):%m-%d %H:%M}"


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
