"""Addresses of the channels: the file, the environment, and what is wrong with either without repeating it."""

from __future__ import annotations

from pathlib import Path

import pytest
from night_records import night_record
from webhook_server import TOKEN

from flows.notify import notify
from flows.notify_settings import load_settings

pytestmark = pytest.mark.usefixtures("no_channel")


def write_env(text: str, mode: int = 0o600) -> Path:
    path = Path(".segtrail/notify.env")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_file_is_used_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    write_env(
        '# addresses\n\nexport SEGTRAIL_WEBHOOK_URL="https://one.example/x"\nSEGTRAIL_NOTIFY=failures\n'
    )
    settings = load_settings()
    assert (settings.webhook, settings.when, settings.problems) == ("https://one.example/x", "failures", {})
    monkeypatch.setenv("SEGTRAIL_WEBHOOK_URL", "https://two.example/y")
    assert load_settings().webhook == "https://two.example/y"
    monkeypatch.setenv("SEGTRAIL_WEBHOOK_URL", "")  # set to nothing: not the file's either
    assert load_settings().webhook == ""


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(mode: int) -> None:
    write_env(f"SEGTRAIL_WEBHOOK_URL=https://hooks.example/{TOKEN}\n", mode)
    (record,) = notify(night_record())
    assert record["channel"] == "settings"
    assert f"others can read it (mode {mode:o}, expected 600)" in record["error"]
    assert "chmod 600 .segtrail/notify.env" in record["error"]
    assert TOKEN not in record["error"]


def test_the_file_is_not_in_git() -> None:
    from flows.notify_settings import ENV_FILE

    ignored = (Path(__file__).resolve().parents[2] / ".gitignore").read_text().splitlines()
    assert f"{ENV_FILE.parent}/" in ignored


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("SEGTRAIL_WEBHOOK_URL", f"hooks.example/{TOKEN}", "does not start with https:// or http://"),
        ("SEGTRAIL_WEBHOOK_URL", f"ftp://hooks.example/{TOKEN}", "does not start with https:// or http://"),
        ("SEGTRAIL_WEBHOOK_URL", f"https:///{TOKEN}", "names no host"),
        ("SEGTRAIL_WEBHOOK_URL", f"https://a b/{TOKEN}", "holds spaces"),
        ("SEGTRAIL_WEBHOOK_URL", f"https://host:port/{TOKEN}", "host or port cannot be read"),
        ("SEGTRAIL_WEBHOOK_URL", f"https://[host/{TOKEN}", "host or port cannot be read"),
        ("SEGTRAIL_WEBHOOK_URL", f"https://host/\u00fc/{TOKEN}", "letters that an address cannot carry"),
        ("SEGTRAIL_WEBHOOK_URL", f"https://host/\x07/{TOKEN}", "holds spaces"),
        ("SEGTRAIL_NOTIFY", "sometimes", "use one of: all, changes, failures"),
    ],
)
def test_a_wrong_value_is_one_clear_error(
    key: str, value: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(key, value)
    (record,) = notify(night_record())
    assert not record["sent"]
    assert text in record["error"]
    assert key in record["error"]
    assert TOKEN not in record["error"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("SEGTRAIL_WEBHOOK https://x", "line 1"),
        ("SEGTRAIL_WEBHOK_URL=https://x", "unknown key 'SEGTRAIL_WEBHOK_URL'"),
    ],
)
def test_a_wrong_line_of_the_file(line: str, text: str) -> None:
    write_env(line + "\n")
    (record,) = notify(night_record())
    assert text in record["error"]


def test_a_file_in_another_code_is_one_clear_error() -> None:
    path = write_env("")
    path.write_bytes("SEGTRAIL_SMTP_URL=smtps://me:gr\u00fcn@mail.lab.example\n".encode("latin-1"))
    (record,) = notify(night_record())
    assert (record["channel"], record["sent"]) == ("settings", False)
    assert "it is not UTF-8 (.segtrail/notify.env" in record["error"]
    assert "gr" not in record["error"]
