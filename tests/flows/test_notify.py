"""Channels against real servers: webhook, mail, Prefect. None breaks another, and nothing secret is told."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest
from night_records import night_record, write_night
from webhook_server import TOKEN, closed_port, webhook

from flows.cli import main
from flows.notify import is_wanted, notify
from flows.notify_settings import load_settings
from pipeline.errors import SegtrailError

pytestmark = pytest.mark.usefixtures("no_channel")


@pytest.mark.parametrize(
    ("state", "changes", "failures"),
    [("promoted", True, False), ("kept", True, False), ("refused", True, False), ("skipped", False, False),
     ("failed", True, True), ("killed", True, True)],
)  # fmt: skip
def test_when_people_are_told(state: str, changes: bool, failures: bool) -> None:
    assert (is_wanted(state, "changes"), is_wanted(state, "failures"), is_wanted(state, "all")) == (
        changes, failures, True,
    )  # fmt: skip


def test_a_skipped_night_is_sent_only_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook(200) as server:
        monkeypatch.setenv("SEGTRAIL_WEBHOOK_URL", server.address)
        assert notify(night_record("skipped")) == []
        assert server.requests == []
        assert [r["sent"] for r in notify(night_record("skipped"), always=True)] == [True]
        monkeypatch.setenv("SEGTRAIL_NOTIFY", "all")
        assert [r["sent"] for r in notify(night_record("skipped"))] == [True]


def test_a_channel_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from mail_sink import Sink, mail_sink

    with webhook(404) as server, mail_sink(Sink()) as sink:
        monkeypatch.setenv("SEGTRAIL_WEBHOOK_URL", server.address)
        monkeypatch.setenv("SEGTRAIL_SMTP_URL", f"smtp://127.0.0.1:{sink.port}")
        monkeypatch.setenv("SEGTRAIL_MAIL_FROM", "segtrail@lab.example")
        monkeypatch.setenv("SEGTRAIL_MAIL_TO", "you@lab.example")
        records = notify(night_record())
    assert [(r["channel"], r["sent"]) for r in records] == [
        ("webhook 127.0.0.1", False),
        ("mail 127.0.0.1", True),
    ]
    assert len(sink.mails) == 1


def test_nothing_secret_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from mail_sink import Sink, mail_sink

    caplog.set_level(logging.DEBUG)
    logging.getLogger("segtrail").propagate = True
    secrets = ["hunter2 &longer", "hunter2%20%26longer", TOKEN, "abcdefSECRETxyz"]
    with mail_sink(Sink(login="me:other")) as sink:
        monkeypatch.setenv("SEGTRAIL_SMTP_URL", f"smtp://me:hunter2%20%26longer@127.0.0.1:{sink.port}")
        monkeypatch.setenv("SEGTRAIL_MAIL_FROM", "segtrail@lab.example")
        monkeypatch.setenv("SEGTRAIL_MAIL_TO", "you@lab.example")
        monkeypatch.setenv("SEGTRAIL_WEBHOOK_URL", f"http://127.0.0.1:{closed_port()}/services/{TOKEN}")
        night = night_record()
        night["notified"] = notify(night)
        settings = load_settings()
    assert [r["sent"] for r in night["notified"]] == [False, False]
    assert "user or password were refused (code 535)" in night["notified"][1]["error"]
    folder = write_night(night)
    told = caplog.text + repr(settings) + (folder / "night.json").read_text()
    for secret in secrets:
        assert secret not in told
        assert secret not in settings.strike(f"<{secret}>")
    assert "AUTH" in " ".join(sink.commands)  # it did log in


def test_notify_again_and_test(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["notify", "--test"]) == 1
    assert "no channel is set" in capsys.readouterr().err
    assert main(["notify"]) == 1
    assert "there has been no night yet" in capsys.readouterr().err
    write_night(night_record("skipped", "20261126T020000Z"))
    write_night(night_record())
    with webhook(200, 200, 404) as server:
        monkeypatch.setenv("SEGTRAIL_WEBHOOK_URL", server.address)
        assert main(["notify", "20261126T020000Z"]) == 0
        assert main(["notify", "--test"]) == 0
        assert capsys.readouterr().out.splitlines() == ["webhook 127.0.0.1                sent"] * 2
        assert main(["notify"]) == 1  # the last night
        assert "NOT SENT: it answered 404" in capsys.readouterr().out
    texts = [body["text"].splitlines()[0] for _, _, body in server.requests]
    assert texts[0].startswith("hippocampus: night skipped, nothing changed")
    assert texts[1] == "Segtrail: a test message"
    assert texts[2].startswith("hippocampus: v7 promoted")
    assert main(["notify", "20200101T000000Z"]) == 1
    assert "unknown night" in capsys.readouterr().err


@pytest.mark.slow
def test_prefect_has_the_artifact_and_the_event(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect_home import make_home

    from flows.servers import end_group, start_server

    monkeypatch.setenv("PREFECT_HOME", str(make_home(tmp_path_factory.mktemp("home") / "prefect")))
    server = start_server(os.getpid(), with_ui=True)
    assert server.process is not None
    try:
        assert server.wait()
        monkeypatch.setenv("PREFECT_API_URL", server.url)
        assert notify(night_record("skipped")) == [{"channel": "prefect", "sent": True, "error": ""}]
        night = night_record("refused")
        with temporary_settings({PREFECT_API_URL: server.url}):
            (record,) = flow(name="nightly")(lambda: notify(night))()
            assert record == {"channel": "prefect", "sent": True, "error": ""}
            with get_client(sync_client=True) as client:
                first, second = client.read_artifacts()
                (run,) = client.read_flow_runs()
                deadline, events = time.monotonic() + 30, []
                while (
                    len(events) < 2 and time.monotonic() < deadline
                ):  # the server writes them down in a moment
                    query = {"filter": {"event": {"prefix": ["segtrail.night."]}}}
                    events = client.request("POST", "/events/filter", json=query).json()["events"]
                    time.sleep(0.2)
    finally:
        end_group(server.process)
    by_description = {artifact.description: artifact for artifact in (first, second)}
    refused = by_description["hippocampus: v7 refused (test/dice 0.912, −0.013)"]
    assert refused.key == "nightly"
    assert refused.flow_run_id == run.id
    assert "difference −0.0130" in refused.data
    assert {event["event"] for event in events} == {"segtrail.night.skipped", "segtrail.night.refused"}
    assert {event["resource"]["prefect.resource.id"] for event in events} == {
        f"segtrail.project.{Path.cwd().name}"
    }
    # A server that is gone is no channel, and no error.
    assert notify(night_record()) == []


def test_what_names_a_patient_is_struck_out_of_arriving_names(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.privacy import conceal
    from flows.private_map import load_pseudonyms, remember

    monkeypatch.setenv("SEGTRAIL_PRIVATE_DIR", str(tmp_path_factory.mktemp("private")))
    intake = {
        "taken": [{"name": "Quillfeather_Ottoline/ct", "files": 3}],
        "refused": [{"name": "b", "reason": "MRN-77123: no label"}],
    }
    before = conceal(intake)
    remember({"quillfeather", "ottoline", "mrn-77123"}, load_pseudonyms())
    assert conceal(intake) == {
        "taken": [{"name": "***_***/ct", "files": 3}],
        "refused": [{"name": "b", "reason": "***: no label"}],
    }
    assert before == intake  # nobody was known then
    remember({"weiss"}, load_pseudonyms())  # small letters: "\u00df" is "ss" there
    assert conceal("WEISS_1 Wei\u00df_ct a_wei\u00df") == "***_1 ***_ct a_***"


def test_a_path_that_names_a_patient_is_found_and_not_told(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a push stands in the record, the message and the audit log of the night."""
    from flows.private_map import load_pseudonyms, remember
    from flows.remote import push_all

    monkeypatch.setenv("SEGTRAIL_PRIVATE_DIR", str(tmp_path_factory.mktemp("private")))
    remember({"quillfeather"}, load_pseudonyms())
    (project / "data/raw/set").mkdir(parents=True)
    (project / "data/raw/set/Quillfeather_ct.csv").write_text("1\n")
    with pytest.raises(SegtrailError, match="1 of 3 files name patients") as caught:
        push_all()
    assert "data/raw/set/***_ct.csv: its path" in caught.value.what
    assert "uillfeather" not in str(caught.value)


def test_an_unknown_night_is_a_clear_error() -> None:
    from flows.notify import send_again

    with pytest.raises(SegtrailError, match="there has been no night yet"):
        send_again("no_such_night")
