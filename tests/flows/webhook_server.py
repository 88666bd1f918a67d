"""A real HTTP server on this machine that answers as it is told."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "T0123456/B0123456/abcdefSECRETxyz"  # the secret in the address of a webhook


class WebhookServer(ThreadingHTTPServer):
    """Answers each POST with the next of some codes, the last one for ever; 0 = no answer at all."""

    daemon_threads = True

    def __init__(self, codes: tuple[int, ...]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.codes = list(codes)
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.done = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: WebhookServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers), json.loads(body)))
        codes = self.server.codes
        code = codes.pop(0) if len(codes) > 1 else codes[0]
        if code == 0:
            self.server.done.wait(30)
            return
        self.send_response(code)
        if 300 <= code < 400:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.requests.append((self.path, {}, "GET"))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def webhook(*codes: int) -> Iterator[WebhookServer]:
    """Runs the server for a block."""
    server = WebhookServer(codes or (200,))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.done.set()
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port() -> int:
    """A port where nobody answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
