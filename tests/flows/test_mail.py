"""E-mail against a real SMTP server of this machine: plain, STARTTLS, TLS, logins, refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mail_sink import Sink, mail_sink, make_certificate
from night_records import night_record, write_night

from flows.attempts import DeliveryError
from flows.mail import MOST_PICTURE_BYTES, build_mail, send_mail
from flows.messages import compose
from flows.notify import notify
from flows.notify_settings import MailServer, load_settings

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 100
pytestmark = pytest.mark.usefixtures("no_channel")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command")
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def server(port: int, scheme: str = "smtp", **changes: object) -> MailServer:
    given = {"user": "", "password": "", "sender": "Segtrail <segtrail@lab.example>", "host": "127.0.0.1"}
    given |= {"recipients": ("a@lab.example", "b@lab.example")} | changes  # type: ignore[operator]
    return MailServer(scheme=scheme, port=port, **given)  # type: ignore[arg-type]


def set_mail(monkeypatch: pytest.MonkeyPatch, url: str, to: str = "a@lab.example") -> None:
    monkeypatch.setenv("SEGTRAIL_SMTP_URL", url)
    monkeypatch.setenv("SEGTRAIL_MAIL_FROM", "segtrail@lab.example")
    monkeypatch.setenv("SEGTRAIL_MAIL_TO", to)


def test_text_html_and_the_picture_of_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    night = night_record()
    (write_night(night) / "drift.png").write_bytes(PNG)
    with mail_sink(Sink()) as sink:
        set_mail(monkeypatch, f"smtp://127.0.0.1:{sink.port}", "a@lab.example, B <b@lab.example>")
        assert notify(night) == [{"channel": "mail 127.0.0.1", "sent": True, "error": ""}]
    (mail,) = sink.mails
    assert mail["Subject"] == "[Segtrail] hippocampus: v7 promoted (test/dice 0.912, +0.008)"
    assert [a.addr_spec for a in mail["To"].addresses] == ["a@lab.example", "b@lab.example"]
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None and html is not None
    assert text.get_content().splitlines() == compose(night).text.splitlines()
    picture = next(part for part in mail.walk() if part.get_content_type() == "image/png")
    assert picture.get_content() == PNG
    assert f'src="cid:{picture["Content-ID"][1:-1]}"' in html.get_content()


@pytest.mark.parametrize("size", [0, MOST_PICTURE_BYTES + 1])
def test_a_large_or_missing_picture_is_left_out(size: int, tmp_path: Path) -> None:
    picture = tmp_path / "drift.png"
    if size:
        picture.write_bytes(b"0" * size)
    mail = build_mail(server(25), compose(night_record()), picture)
    assert {part.get_content_type() for part in mail.walk()} == {
        "multipart/alternative",
        "text/plain",
        "text/html",
    }


@pytest.mark.parametrize("scheme", ["smtp+starttls", "smtps"])
def test_encrypted_and_logged_in(
    scheme: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    sink = Sink(login="me@lab:p:w d", certificate=certificate, encrypted=scheme == "smtps")
    with mail_sink(sink):
        set_mail(monkeypatch, f"{scheme}://me%40lab:p%3Aw%20d@localhost:{sink.port}")
        assert notify(night_record()) == [{"channel": "mail localhost", "sent": True, "error": ""}]
    assert sink.encrypted_at_mail == [True]


@pytest.mark.parametrize("scheme", ["smtp+starttls", "smtps"])
def test_a_certificate_of_nobody_is_not_trusted(scheme: str, certificate: tuple[Path, Path]) -> None:
    sink = Sink(login="me:secret", certificate=certificate, encrypted=scheme == "smtps")
    with mail_sink(sink), pytest.raises(DeliveryError, match="certificate is not trusted: self-signed"):
        send_mail(
            server(sink.port, scheme, user="me", password="secret"), compose(night_record()), waits_s=()
        )
    assert not any(command.startswith("AUTH") for command in sink.commands)


def test_no_starttls_no_mail() -> None:
    with mail_sink(Sink()) as sink, pytest.raises(DeliveryError, match="does not offer STARTTLS"):
        send_mail(server(sink.port, "smtp+starttls"), compose(night_record()), waits_s=(0.01,))
    assert sink.encrypted_at_mail == []


@pytest.mark.parametrize(
    ("replies", "error", "sent", "tries"),
    [
        (["451 later", "250 ok"], "", 1, 2),
        (["451 later"], r"the server refused the mail \(code 451\) \(try 2 of 2\)", 0, 2),
        (["554 no"], r"the server refused the mail \(code 554\)$", 0, 1),
    ],
)
def test_later_is_tried_again_and_no_is_not(replies: list[str], error: str, sent: int, tries: int) -> None:
    with mail_sink(Sink(replies=replies)) as sink:
        if error:
            with pytest.raises(DeliveryError, match=error):
                send_mail(server(sink.port), compose(night_record()), waits_s=(0.01,))
        else:
            send_mail(server(sink.port), compose(night_record()), waits_s=(0.01,))
    assert len(sink.mails) == sent
    assert sink.commands.count("data") == tries


@pytest.mark.parametrize(
    ("refused", "error", "sent"),
    [
        (("a@",), "1 of 2 recipients were refused", 1),
        (("a@", "b@"), r"all recipients were refused \(code 550\)", 0),
    ],
)
def test_refused_recipients(refused: tuple[str, ...], error: str, sent: int) -> None:
    with mail_sink(Sink(refused=refused)) as sink, pytest.raises(DeliveryError, match=error) as caught:
        send_mail(server(sink.port), compose(night_record()), waits_s=(0.01,))
    assert len(sink.mails) == sent
    assert "lab.example" not in str(caught.value)


def test_a_password_that_smtp_cannot_carry_is_told_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_sink(Sink(login="me:gr\u00fcn")) as sink:
        set_mail(monkeypatch, f"smtp://me:gr%C3%BCn@127.0.0.1:{sink.port}")
        (record,) = notify(night_record())
    assert record["error"] == "user, password or an address hold letters that SMTP cannot carry"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mail.lab.example", "does not start with smtp:// or smtp+starttls:// or smtps://"),
        ("smtp://mail.lab.example", "sends mail, user and password unencrypted"),
        ("smtps://", "names no host"),
        ("smtps://me:pass@word@mail:x", "host or port cannot be read"),
    ],
)
def test_wrong_addresses(url: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_mail(monkeypatch, url)
    (record,) = notify(night_record())
    assert record["channel"] == "mail"
    assert text in record["error"]
    assert "pass@word" not in record["error"]


def test_ports_and_a_plain_connection_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for url in ("smtp://localhost", "smtp+starttls://h", "smtps://h", "smtp://relay:2525?plain=yes"):
        set_mail(monkeypatch, url)
        mail = load_settings().mail
        assert mail is not None
        found[url] = (mail.scheme, mail.port)
    assert list(found.values()) == [("smtp", 25), ("smtp+starttls", 587), ("smtps", 465), ("smtp", 2525)]


@pytest.mark.parametrize(
    ("sender", "to", "key"),
    [("", "a@b.c", "SEGTRAIL_MAIL_FROM"), ("a@b.c", "", "SEGTRAIL_MAIL_TO"), ("nobody", "a@b.c", "SEGTRAIL_MAIL_FROM"),
     ("a@b.c", "a@b.c, nobody", "SEGTRAIL_MAIL_TO")],
)  # fmt: skip
def test_half_of_the_settings(sender: str, to: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGTRAIL_SMTP_URL", "smtps://mail.lab.example")
    monkeypatch.setenv("SEGTRAIL_MAIL_FROM", sender)
    monkeypatch.setenv("SEGTRAIL_MAIL_TO", to)
    (record,) = notify(night_record())
    assert key in record["error"]
