"""What a night says: titles, numbers, cases and what to do; foreign text cannot change how it is read."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from night_records import drift_record, night_record, sha, write_version

from flows.messages import ERROR, INFO, WARNING, compose, one_line


@pytest.fixture(autouse=True)
def archive(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Champion (version 6) with Dice 0.904, challenger (version 7) with 0.9121."""
    write_version(6, 0.904)
    write_version(7, 0.9121)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///nowhere.db")


@pytest.mark.parametrize(
    ("state", "title", "level"),
    [
        ("promoted", "hippocampus: v7 promoted (test/dice 0.912, +0.008)", WARNING),
        ("refused", "hippocampus: v7 refused (test/dice 0.912, −0.013)", WARNING),
        ("kept", "hippocampus: champion v6 kept (test/dice 0.904)", WARNING),
        ("failed", "hippocampus: night failed in step repro", ERROR),
        ("killed", "hippocampus: night killed in step repro", ERROR),
        (
            "skipped",
            "hippocampus: night skipped, nothing changed since night 20261126T020000Z: data, params",
            INFO,
        ),
    ],
)
def test_the_title_says_what_happened(state: str, title: str, level: str) -> None:
    message = compose(night_record(state))
    assert message.title.startswith(title)
    assert message.level == level  # a case was refused in all nights but the skipped one


def test_a_night_that_asks_for_nothing_is_information() -> None:
    intake = {"taken": [], "waiting": [], "refused": []}
    assert compose(night_record(intake=intake)).level == INFO
    assert compose(night_record(intake=intake, drift=drift_record(True))).level == WARNING


def test_both_models_with_interval_n_and_the_difference() -> None:
    text = compose(night_record()).text
    assert (
        "test/dice: champion v6 0.904 (0.884 to 0.924, n = 26), challenger v7 0.912 (0.892 to 0.932, n = 26), "
        "difference +0.0081 (95 % interval +0.0031 to +0.0131)"
    ) in text
    assert "Dice, anterior: champion v6 0.914 (0.894 to 0.934, n = 26)" in text
    assert "Dice, posterior: champion v6 0.894" in text


def test_cases_with_reasons_the_first_few_then_counts() -> None:
    text = compose(night_record()).text
    assert (
        "12 taken: hippocampus_301; hippocampus_302; hippocampus_303; hippocampus_304; hippocampus_305; and 7 more"
        in text
    )
    assert "1 waiting: hippocampus_313: label still growing: 12 s since the last change" in text
    assert "1 refused: hippocampus_314: image without a label" in text
    assert "221 cases in all, 219 usable, 12 new" in text
    assert (
        "2 quarantined: hippocampus_307 (truncated): the file ends after 1.2 of 3.1 MB; hippocampus_311"
        in text
    )
    assert "no feature has drifted" in text


def test_what_to_do_and_where_to_look() -> None:
    message = compose(night_record("failed"))
    assert "What to do:\n  make space, then segtrail night" in message.text
    assert "Steps that failed:\n  repro: repro: stage train@unet failed" in message.text
    assert message.link.startswith("file:///")
    assert message.link.endswith("/.segtrail/nights/20261127T020000Z/report.html")
    pages = dict(compose(night_record()).pages)
    assert pages["Model in MLflow"] == "http://127.0.0.1:5000/#/models/hippocampus/versions/7"
    assert pages["Run in Prefect"].endswith("/runs/flow-run/0193a6a1-0000-7000-8000-000000000001")


def test_the_address_of_mlflow_comes_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter22@mlflow.lab:5443/base/")
    message = compose(night_record())
    assert (
        dict(message.pages)["Model in MLflow"]
        == "https://mlflow.lab:5443/base/#/models/hippocampus/versions/7"
    )
    assert "hunter22" not in message.text + message.markdown + message.html


def test_a_failed_push_is_told_even_when_a_model_was_promoted() -> None:
    push = {"remote": "storage", "attempts": 3, "pushed": False, "error": "Connection refused"}
    message = compose(night_record(push=push))
    assert message.level == WARNING
    assert "push to storage, 3 attempts: Connection refused" in message.text


def test_the_first_champion_has_nothing_to_be_compared_with() -> None:
    from night_records import decision

    message = compose(night_record(decision=decision(7, None, True, 0.0)))
    assert message.title == "hippocampus: v7 promoted (test/dice 0.912, the first)"
    assert "test/dice: challenger v7 0.912 (0.892 to 0.932, n = 26)\n" in message.text


def test_versions_without_a_number_and_without_files() -> None:
    from night_records import decision

    message = compose(night_record(version_numbers={}, decision=decision(9, 8, True, 0.0081)))
    assert message.title == f"hippocampus: {sha(9)[:12]} promoted (test/dice –, +0.008)"


@pytest.mark.parametrize("state", ["running", "failed", "killed"])
def test_a_night_that_came_to_nothing(state: str) -> None:
    empty = {"steps": [], "intake": None, "cases": None, "seconds": None, "reason": "", "report": None}
    message = compose(night_record(state, **empty, decision=None, drift=None, push=None))
    assert message.title.startswith(f"hippocampus: night {state}")
    assert message.link == ""


class Tags(HTMLParser):
    """All tags of a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.data = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.data += data


def test_names_of_files_are_text_in_every_form() -> None:
    name = "a\r\nBcc: x@y.z\n<script>alert(1)</script> [here](http://evil) `x` \u202egpj"
    refused = {"taken": [], "waiting": [], "refused": [{"name": name, "reason": "<b>no</b>"}]}
    message = compose(night_record(intake=refused))
    clean = "a Bcc: x@y.z <script>alert(1)</script> [here](http://evil) `x` gpj: <b>no</b>"
    assert f"1 refused: {clean}\n" in message.text
    tags = Tags(message.html)
    assert tags.tags == {"h2", "h3", "ul", "li", "a"}
    assert clean in tags.data
    assert "\\<script\\>" in message.markdown
    assert "\\[here\\](http://evil)" in message.markdown
    assert "\\`x\\`" in message.markdown


def test_foreign_text_is_one_line_of_bounded_length() -> None:
    assert one_line(" a\tb\u2028c\x00 \n") == "a b c"
    assert one_line("x" * 500) == "x" * 399 + "…"
    assert len(compose(night_record("skipped", reason="y" * 900)).title) == 120
