"""A small SMTP server on this machine (RFC 5321): it keeps what it gets, and says no when it is told to."""

from __future__ import annotations

import base64
import email
import email.policy
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path


@dataclass
class Sink:
    """What the server offers, and what it got.

    Attributes:
        login: "user:password" that AUTH PLAIN must bring; "" = no login is offered.
        certificate: For STARTTLS; or from the first byte on with `encrypted`.
        replies: Answers to DATA's end, the last one for ever.
        refused: Recipients that are not taken.
    """

    login: str = ""
    certificate: tuple[Path, Path] | None = None
    encrypted: bool = False
    replies: list[str] = field(default_factory=lambda: ["250 kept"])
    refused: tuple[str, ...] = ()
    port: int = 0
    commands: list[str] = field(default_factory=list)
    encrypted_at_mail: list[bool] = field(default_factory=list)
    mails: list[EmailMessage] = field(default_factory=list)


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        sink: Sink = self.server.sink  # type: ignore[attr-defined]
        self.encrypted = False
        if sink.encrypted:
            self._encrypt(sink)
        self._open()
        self._say("220 sink")
        while line := self._read():
            verb = line.split()[0].upper()
            sink.commands.append(line)
            if verb == "QUIT":
                self._say("221 bye")
                return
            getattr(self, f"_do_{verb.lower()}", self._unknown)(sink, line)

    def _open(self) -> None:
        self.stream = self.request.makefile("rwb")

    def _encrypt(self, sink: Sink) -> None:
        assert sink.certificate is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*sink.certificate)
        self.request = context.wrap_socket(self.request, server_side=True)
        self.encrypted = True

    def _say(self, line: str) -> None:
        self.stream.write(line.encode() + b"\r\n")
        self.stream.flush()

    def _read(self) -> str:
        return self.stream.readline().decode().strip()

    def _unknown(self, sink: Sink, line: str) -> None:
        self._say("500 what?")

    def _do_ehlo(self, sink: Sink, line: str) -> None:
        offers = ["sink"]
        if sink.certificate and not self.encrypted:
            offers.append("STARTTLS")
        if sink.login and (self.encrypted or not sink.certificate):
            offers.append("AUTH PLAIN")
        for offer in offers[:-1]:
            self._say(f"250-{offer}")
        self._say(f"250 {offers[-1]}")

    def _do_starttls(self, sink: Sink, line: str) -> None:
        self._say("220 go on")
        self._encrypt(sink)
        self._open()

    def _do_auth(self, sink: Sink, line: str) -> None:
        _, user, password = base64.b64decode(line.split()[2]).decode().split("\0")
        right = f"{user}:{password}" == sink.login
        # Some servers quote what they were sent.
        self._say("235 welcome" if right else f"535 no: {user} {password} {line}")

    def _do_mail(self, sink: Sink, line: str) -> None:
        sink.encrypted_at_mail.append(self.encrypted)
        self._say("250 ok")

    def _do_rcpt(self, sink: Sink, line: str) -> None:
        self._say("550 unknown" if any(name in line for name in sink.refused) else "250 ok")

    def _do_rset(self, sink: Sink, line: str) -> None:
        self._say("250 ok")

    def _do_data(self, sink: Sink, line: str) -> None:
        self._say("354 go on")
        lines = []
        while (text := self.stream.readline()) != b".\r\n":
            lines.append(text[1:] if text.startswith(b"..") else text)
        reply = sink.replies.pop(0) if len(sink.replies) > 1 else sink.replies[0]
        if reply.startswith("250"):
            sink.mails.append(email.message_from_bytes(b"".join(lines), policy=email.policy.default))
        self._say(reply)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that does not trust the certificate hangs up


@contextmanager
def mail_sink(sink: Sink) -> Iterator[Sink]:
    """Runs the server for a block."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.sink = sink  # type: ignore[attr-defined]
        sink.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield sink
        finally:
            server.shutdown()
            thread.join()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Certificate and key of "localhost", made by itself."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
