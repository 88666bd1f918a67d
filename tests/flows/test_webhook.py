"""The webhook against a real server: what it gets, and what is tried again."""

from __future__ import annotations

import json
import time

import pytest
from night_records import night_record
from webhook_server import TOKEN, closed_port, webhook

from flows import webhook as hook
from flows.attempts import DeliveryError
from flows.messages import compose
from flows.notify import notify
from flows.webhook import post_message

pytestmark = pytest.mark.usefixtures("no_channel")


def test_a_webhook_gets_the_message_and_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook(200) as server:
        monkeypatch.setenv("SEGTRAIL_WEBHOOK_URL", f"{server.address}/services/{TOKEN}")
        records = notify(night_record())
    assert records == [{"channel": "webhook 127.0.0.1", "sent": True, "error": ""}]
    ((path, headers, body),) = server.requests
    assert path == f"/services/{TOKEN}"
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert body["text"].startswith("hippocampus: v7 promoted (test/dice 0.912, +0.008)\n\nWhy:\n")
    night = body["night"]
    assert (night["state"], night["night_id"], night["metric"]) == (
        "promoted",
        "20261127T020000Z",
        "test/dice",
    )
    assert night["challenger"] == pytest.approx(
        {"version": "v7", "value": 0.9121, "ci_low": 0.8921, "ci_high": 0.9321, "n": 26}
    )
    assert night["improvement"]["value"] == pytest.approx(0.0081)
    assert night["cases"] == {
        "taken": 12, "waiting": 1, "refused": 1, "total": 221, "usable": 219, "quarantined": 2
    }  # fmt: skip


def test_no_case_can_call_the_whole_chat() -> None:
    night = night_record(
        intake={"taken": [], "waiting": [], "refused": [{"name": "<!channel> @all", "reason": "<@U1>"}]}
    )
    text = hook.build_payload(compose(night), night)["text"]
    assert "<" not in text
    assert "@all" not in text
    assert "‹!channel›" in text


@pytest.mark.parametrize(
    ("codes", "tries", "error"),
    [
        ((500, 200), 2, ""),
        ((503, 502, 200), 3, ""),
        ((500,), 3, "it answered 500 Internal Server Error (try 3 of 3)"),
        ((404,), 1, "it answered 404 Not Found: the address is wrong, or the webhook was removed"),
        ((302,), 1, "it answered 302 Found: the address is wrong, or the webhook was removed"),
    ],
)
def test_tries_of_a_webhook(
    codes: tuple[int, ...], tries: int, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook(*codes) as server:
        monkeypatch.setenv("SEGTRAIL_WEBHOOK_URL", server.address)
        (record,) = notify(night_record())
    assert (record["sent"], record["error"]) == (not error, error)
    assert len(server.requests) == tries


def test_a_webhook_that_never_answers() -> None:
    night = night_record()
    with webhook(0) as server, pytest.raises(DeliveryError, match=r"^no answer in time \(try 2 of 2\)$"):
        post_message(server.address, compose(night), night, timeout_s=0.3, waits_s=(0.01,))
    assert len(server.requests) == 2


def test_a_refused_connection_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    night = night_record()
    with pytest.raises(DeliveryError, match=r"Connection refused (.*)\(try 3 of 3\)|refused.*\(try 3 of 3\)"):
        post_message(f"http://127.0.0.1:{closed_port()}/{TOKEN}", compose(night), night, 5.0, (2.0, 10.0))
    assert waited == [2.0, 10.0]


def test_the_payload_is_json_for_every_state() -> None:
    for state in ("promoted", "refused", "kept", "skipped", "failed", "killed", "running"):
        night = night_record(state)
        assert json.dumps(hook.build_payload(compose(night), night))
