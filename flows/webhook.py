"""A message to an incoming webhook, as Slack, Mattermost and others have them: one POST of a JSON object."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import IO, Any

from flows.attempts import DeliveryError, deliver
from flows.messages import Message
from flows.night_numbers import compare

TIMEOUT_S = 10.0
WAITS_S = (2.0, 10.0)  # before the second and the third try
ZERO_WIDTH_SPACE = "\u200b"
AGENT = "segtrail"


def post_message(
    url: str,
    message: Message,
    night: Mapping[str, Any],
    timeout_s: float = TIMEOUT_S,
    waits_s: Sequence[float] = WAITS_S,
) -> None:
    """Posts a message; tries again when there is no connection, no answer in time, or the server fails (5xx).

    Args:
        url: Of the webhook.
        message: Shown as the key `text`.
        night: Its key numbers stand under `night`, for programs.
        timeout_s: Of one try.
        waits_s: Seconds before each further try.

    Raises:
        DeliveryError: No try succeeded, or the server does not want the message (4xx, or sends elsewhere).
    """
    body = json.dumps(build_payload(message, night), ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": AGENT}
    deliver(lambda: _post(url, body, headers, timeout_s), waits_s)


def build_payload(message: Message, night: Mapping[str, Any]) -> dict[str, Any]:
    """What is posted; nobody is called by it, whatever a case is named."""
    comparison = compare(night)
    head = comparison.rows[0] if comparison else None
    intake, cases = night.get("intake") or {}, night.get("cases") or {}
    summary = {
        **{
            key: night.get(key)
            for key in ("night_id", "trigger", "state", "started", "ended", "seconds", "fix")
        },
        "level": message.level,
        "model": comparison.name if comparison else None,
        "metric": comparison.metric if comparison else None,
        "champion": _side(comparison.champion, head.champion) if comparison and head else None,
        "challenger": _side(comparison.challenger, head.challenger) if comparison and head else None,
        "improvement": _side("", head.difference) if head else None,
        "cases": {
            **{key: len(intake.get(key) or []) for key in ("taken", "waiting", "refused")},
            "total": cases.get("total"),
            "usable": cases.get("usable"),
            "quarantined": len(cases.get("quarantined") or []),
        },
        "drifted": (night.get("drift") or {}).get("drifted"),
    }
    return {"text": _quiet(f"{message.title}\n\n{message.text}"), "night": summary}


def _side(version: str, score: Any) -> dict[str, Any] | None:
    if score.value is None:
        return None
    numbers = {"value": score.value, "ci_low": score.low, "ci_high": score.high, "n": score.n}
    return {"version": version, **numbers} if version else numbers


def _quiet(text: str) -> str:
    """Text in which no chat finds a mention, a command or a tag."""
    return text.replace("<", "‹").replace(">", "›").replace("@", f"@{ZERO_WIDTH_SPACE}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET without the message."""

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


def _post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> None:
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(urllib.request.Request(url, body, dict(headers)), timeout=timeout_s):
            return
    except urllib.error.HTTPError as error:
        error.close()
        wrong = "" if error.code >= 500 else ": the address is wrong, or the webhook was removed"
        raise DeliveryError(
            f"it answered {error.code} {error.reason}{wrong}", again=error.code >= 500
        ) from None
    except (urllib.error.URLError, HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise DeliveryError(_words(reason), again=True) from None


def _words(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    return f"no connection: {reason}" if str(reason) else f"no connection: {type(reason).__name__}"
