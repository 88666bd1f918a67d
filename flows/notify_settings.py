"""Where messages go: addresses and passwords, which are no params because they are secrets.

Each is an environment variable, or a line `KEY=value` of `.segtrail/notify.env`, which nobody else may read. An
error names the key, never its value.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parseaddr
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from flows.environment import STATE
from pipeline.errors import SegtrailError, unknown_name

T = TypeVar("T")
ENV_FILE = STATE / "notify.env"
WEBHOOK, SMTP, MAIL_FROM, MAIL_TO, WHEN = (
    *("SEGTRAIL_WEBHOOK_URL", "SEGTRAIL_SMTP_URL"),
    *("SEGTRAIL_MAIL_FROM", "SEGTRAIL_MAIL_TO", "SEGTRAIL_NOTIFY"),
)
KEYS = (WEBHOOK, SMTP, MAIL_FROM, MAIL_TO, WHEN)
CHANGES, FAILURES, ALL = "changes", "failures", "all"
PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
SHORTEST_SECRET = 4  # a shorter text would be struck out of every other word
STRUCK = "***"


@dataclass(frozen=True)
class MailServer:
    """An SMTP server and who sends to whom.

    Attributes:
        scheme: "smtp" (plain), "smtp+starttls" or "smtps".
        user, password: "" where the server asks for none.
    """

    scheme: str
    host: str
    port: int
    user: str = field(repr=False)
    password: str = field(repr=False)
    sender: str
    recipients: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """What is set.

    Attributes:
        webhook: Address of an incoming webhook; "" for none.
        mail: None for none.
        when: "changes", "failures" or "all".
        problems: What is set wrongly, by channel; such a channel is left out.
        secrets: Texts that no log, error or record may hold.
    """

    webhook: str = field(repr=False)
    mail: MailServer | None
    when: str
    problems: Mapping[str, SegtrailError]
    secrets: tuple[str, ...] = field(repr=False)

    def strike(self, text: str) -> str:
        """The text without the secrets."""
        for secret in self.secrets:
            text = text.replace(secret, STRUCK)
        return text


def load_settings() -> Settings:
    """Reads the variables and the file; what is wrong stands in `problems`."""
    problems: dict[str, SegtrailError] = {}

    def attempt(channel: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except SegtrailError as error:
            problems[channel] = error
            return otherwise

    values = attempt("settings", _load_values, {key: os.environ.get(key, "").strip() for key in KEYS})
    return Settings(
        webhook=attempt("webhook", lambda: _check_webhook(values[WEBHOOK]), ""),
        mail=attempt("mail", lambda: _read_mail(values), None),
        when=attempt("settings", lambda: _read_when(values[WHEN]), CHANGES),
        problems=problems,
        secrets=_secrets(values),
    )


def _load_values() -> dict[str, str]:
    """Value of each key; "" for one that is not set. The environment wins over the file."""
    found = _read_file(ENV_FILE) if ENV_FILE.exists() else {}
    return {key: os.environ.get(key, found.get(key, "")).strip() for key in KEYS}


def _read_file(path: Path) -> dict[str, str]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise SegtrailError(
            f"it may hold passwords and others can read it (mode {mode:o}, expected 600)",
            str(path),
            f"chmod 600 {path}",
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:  # its text would quote the file
        raise SegtrailError("it is not UTF-8", str(path), f"iconv -f latin1 -t utf-8 {path}") from None
    found = {}
    for number, line in enumerate(lines, 1):
        text = line.strip().removeprefix("export ")
        if not text or text.startswith("#"):
            continue
        key, equals, value = text.partition("=")
        if not equals:
            raise SegtrailError(
                "the line has no '='", f"{path}, line {number}", f"write {WEBHOOK}=https://..."
            )
        if key.strip() not in KEYS:
            raise unknown_name("key", key.strip(), KEYS, f"{path}, line {number}")
        value = value.strip()
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        found[key.strip()] = value[1:-1] if quoted else value
    return found


def _split(key: str, value: str, schemes: Mapping[str, int] | tuple[str, ...], example: str) -> SplitResult:
    """Parts of an address, whose port has been looked at."""
    fix = f"{key}={example}"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:  # its text may quote the address
        raise SegtrailError("it is no address: its host or port cannot be read", key, fix) from None
    if parts.scheme not in schemes:
        raise SegtrailError(f"it does not start with {' or '.join(f'{s}://' for s in schemes)}", key, fix)
    if not parts.hostname or port == 0 or any(c.isspace() or not c.isprintable() for c in value):
        raise SegtrailError("it is no address: it names no host, or holds spaces", key, fix)
    if not value.isascii():
        raise SegtrailError(
            "it holds letters that an address cannot carry", key,
            "write them in percent code (ü is %C3%BC), those of a host as xn--...",
        )  # fmt: skip
    return parts


def _check_webhook(value: str) -> str:
    if value:
        _split(WEBHOOK, value, ("https", "http"), "https://hooks.example.org/services/...")
    return value


def _read_mail(values: Mapping[str, str]) -> MailServer | None:
    given = {key: values[key] for key in (SMTP, MAIL_FROM, MAIL_TO)}
    if not any(given.values()):
        return None
    if lacking := [key for key, value in given.items() if not value]:
        raise SegtrailError(
            f"for e-mail {', '.join(lacking)} must be set too", lacking[0], f"set it, or see {ENV_FILE}"
        )
    example = "smtp+starttls://USER:PASSWORD@mail.example.org:587"
    parts = _split(SMTP, given[SMTP], PORTS, example)
    told = parse_qs(parts.query).get("plain") == ["yes"]
    host = str(parts.hostname)
    if parts.scheme == "smtp" and host not in LOCAL_HOSTS and not told:
        raise SegtrailError(
            f"smtp:// to {host} sends mail, user and password unencrypted", SMTP,
            f"{SMTP}=smtp+starttls://..., smtps://..., or add ?plain=yes in a network that you trust",
        )  # fmt: skip
    recipients = tuple(part.strip() for part in given[MAIL_TO].split(",") if part.strip())
    for key, addresses in ((MAIL_FROM, (given[MAIL_FROM],)), (MAIL_TO, recipients)):
        if not addresses or not all("@" in parseaddr(a)[1] and a.isprintable() for a in addresses):
            raise SegtrailError(
                "it is no mail address", key, f"{key}=person@example.org (several: with commas)"
            )
    return MailServer(
        scheme=parts.scheme,
        host=host,
        port=parts.port or PORTS[parts.scheme],
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        sender=given[MAIL_FROM],
        recipients=recipients,
    )


def _read_when(value: str) -> str:
    if value not in ("", CHANGES, FAILURES, ALL):
        raise unknown_name("value", value, (CHANGES, FAILURES, ALL), WHEN)
    return value or CHANGES


def _secrets(values: Mapping[str, str]) -> tuple[str, ...]:
    """The addresses with secrets, and those parts of them that are secret, in each way they may be written."""
    found = set()
    for key in (WEBHOOK, SMTP):
        value = values.get(key, "")
        before, at, _ = value.partition("://")[2].rpartition("@")
        _, _, password = before.partition(":")
        user = before.partition(":")[0]
        found |= {value, before}
        if at:
            plain = unquote(password)
            found |= {password, plain, quote(plain, safe=""), base64.b64encode(plain.encode()).decode()}
            login = f"\0{unquote(user)}\0{unquote(password)}"  # as AUTH PLAIN sends it
            found.add(base64.b64encode(login.encode()).decode())
    _, slash, path = values.get(WEBHOOK, "").partition("://")[2].partition("/")
    if slash:
        found |= {f"/{path}", path, unquote(path)}
        found |= {part for part in path.replace("?", "/").split("/") if len(part) >= 3 * SHORTEST_SECRET}
    return tuple(sorted((s for s in found if len(s) >= SHORTEST_SECRET), key=len, reverse=True))
