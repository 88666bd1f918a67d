"""Tells people of a night: Prefect, a webhook, e-mail. Each is optional, and none can break another, nor the night."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.attempts import DeliveryError
from flows.mail import send_mail
from flows.messages import INFO, Message, Part, compose
from flows.night_folder import night_folder
from flows.nights import FAILED, KILLED, SKIPPED, load_latest, load_night, load_nights
from flows.notify_settings import ALL, ENV_FILE, FAILURES, Settings, load_settings
from flows.prefect_notice import find_api, publish
from flows.webhook import post_message
from pipeline.errors import SegtrailError, unknown_name

LOGGER = logging.getLogger("segtrail")
SHOWN = 5  # last nights, named to somebody who asks for one that there is not
Record = dict[str, Any]
Channel = tuple[str, Callable[[], None]]


def notify(night: Mapping[str, Any], always: bool = False) -> list[Record]:
    """Sends the message about a night through every channel that is set.

    Prefect's page tells of every night; webhook and e-mail of those that `SEGTRAIL_NOTIFY` names.

    Args:
        night: Its record.
        always: Whatever `SEGTRAIL_NOTIFY` says: a person asked for it.

    Returns:
        One record a channel: channel, sent, error ("" where it was sent). Nothing in them is secret.
    """
    settings = load_settings()
    message, picture = compose(night), _picture(night)
    channels = _prefect(message, night)
    if always or is_wanted(night["state"], settings.when):
        channels += _outside(settings, message, night, picture)
    return [*_problems(settings), *(_send(name, send, settings) for name, send in channels)]


def is_wanted(state: str, when: str) -> bool:
    """Whether people are told of a night that ended so, by the value of `SEGTRAIL_NOTIFY`."""
    if when == FAILURES:
        return state in (FAILED, KILLED)
    return when == ALL or state != SKIPPED


def send_again(night_id: str | None) -> list[Record]:
    """Sends the message about an earlier night, the last one if none is named.

    Raises:
        SegtrailError: There is no such night, or no channel is set.
    """
    latest = load_latest()
    if latest is None:
        raise SegtrailError("there has been no night yet", str(night_folder("")), "segtrail night")
    if night_id and not night_folder(night_id).is_dir():
        known = [night["night_id"] for night in load_nights()[-SHOWN:]]
        raise unknown_name("night", night_id, known, str(night_folder("")))
    night = load_night(night_id) if night_id else latest
    return _required(notify(night, always=True))


def send_test() -> list[Record]:
    """Sends a message that says it is a test.

    Raises:
        SegtrailError: No channel is set.
    """
    settings, now = load_settings(), datetime.now(UTC).isoformat(timespec="seconds")
    text = "Segtrail can reach you here. Nothing else happened."
    message = Message("Segtrail: a test message", INFO, "", (Part("Why", (text,)), Part("Sent", (now,))), ())
    night = {"night_id": "test", "state": "test", "reason": text, "steps": [], "started": now}
    channels = [*_prefect(message, night), *_outside(settings, message, night, None)]
    return _required([*_problems(settings), *(_send(name, send, settings) for name, send in channels)])


def _required(records: list[Record]) -> list[Record]:
    if not records:
        raise SegtrailError(
            "no channel is set, and no Prefect server answers", f"the environment, {ENV_FILE}",
            "set SEGTRAIL_WEBHOOK_URL, or SEGTRAIL_SMTP_URL, SEGTRAIL_MAIL_FROM and SEGTRAIL_MAIL_TO",
        )  # fmt: skip
    return records


def _prefect(message: Message, night: Mapping[str, Any]) -> list[Channel]:
    url = find_api()
    return [("prefect", lambda: publish(message, night, url))] if url else []


def _outside(
    settings: Settings, message: Message, night: Mapping[str, Any], picture: Path | None
) -> Iterator[Channel]:
    """Channels that leave this machine; their names say where to, without what is secret."""
    mail = settings.mail
    if settings.webhook:
        host = urlsplit(settings.webhook).hostname
        yield f"webhook {host}", lambda: post_message(settings.webhook, message, night)
    if mail is not None:
        yield f"mail {mail.host}", lambda: send_mail(mail, message, picture)


def _problems(settings: Settings) -> list[Record]:
    found = []
    for channel, error in settings.problems.items():
        text = settings.strike(f"{error.what} ({error.where}; fix: {error.fix})")
        LOGGER.warning("notify: %s: %s", channel, text)
        found.append({"channel": channel, "sent": False, "error": text})
    return found


def _send(name: str, send: Callable[[], None], settings: Settings) -> Record:
    try:
        send()
    except DeliveryError as error:
        text = settings.strike(error.what)
        LOGGER.warning("notify: %s: not sent: %s", name, text)
        return {"channel": name, "sent": False, "error": text}
    return {"channel": name, "sent": True, "error": ""}


def _picture(night: Mapping[str, Any]) -> Path | None:
    name = (night.get("drift") or {}).get("picture")
    return night_folder(night["night_id"]) / str(name) if name else None
