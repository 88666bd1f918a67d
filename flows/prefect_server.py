"""The process of a Prefect server that `flows.servers` starts; it ends with its owner."""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import threading
import time
from typing import Any

import asyncpg
import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.exc import SQLAlchemyError

from flows.locks import is_alive
from flows.servers import STOP_TIMEOUT_S

PATIENCE_S = 120.0
PAUSE_S = 0.5
UNAVAILABLE = 503
AT_ONCE = 10  # on a database server; Prefect's pool has 15 connections, and its own services need some


class Patient:
    """Repeats a request that the database refused because others write; the client would give up after three times.

    Prefect begins a transaction by reading. When somebody else writes before it does, SQLite refuses at once, however
    long it has been told to wait, and Prefect answers 503. Nothing has been written then. A few
    requests go in together, and one alone on SQLite, where even five at once were seen to come to almost nothing.
    """

    def __init__(self, app: Any, at_once: int) -> None:
        self.app = app
        self.room = asyncio.Semaphore(at_once)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] == "GET":
            await self.app(scope, receive, send)
            return
        request = [await receive()]
        while request[-1].get("more_body"):
            request.append(await receive())
        end = time.monotonic() + PATIENCE_S
        while (answer := await self._ask(scope, request, receive)) and answer[0]["status"] == UNAVAILABLE:
            if time.monotonic() > end:
                break
            await asyncio.sleep(random.uniform(0, PAUSE_S))
        for message in answer:
            await send(message)

    async def _ask(self, scope: Any, request: list[Any], receive: Any) -> list[Any]:
        """What the application answers, kept back."""
        left, answer = list(request), list[Any]()

        async def read() -> Any:
            return left.pop(0) if left else await receive()

        async def keep(message: Any) -> None:
            answer.append(message)

        try:
            async with self.room:
                await self.app({**scope}, read, keep)
        except (SQLAlchemyError, asyncpg.PostgresError):
            # Starlette raises what it has answered with 503 once more, for the log.
            if not answer or answer[0]["status"] != UNAVAILABLE:
                raise
        return answer


def serve(owner: int, descriptor: int, with_ui: bool) -> None:
    """Runs the server on a listening socket until its owner ends or it gets SIGTERM.

    Args:
        owner: A process id.
        descriptor: Of the socket, inherited.
        with_ui: Serve the pages and run the scheduler too.
    """
    app = create_app(ephemeral=not with_ui, final=True)
    at_once = 1 if PREFECT_API_DATABASE_CONNECTION_URL.value().startswith("sqlite") else AT_ONCE
    config = uvicorn.Config(
        Patient(app, at_once), log_level="error", lifespan="on", access_log=False, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)

    def follow_owner() -> None:
        while is_alive(owner):
            time.sleep(0.5)
        time.sleep(STOP_TIMEOUT_S / 2)  # what the owner had started says how it ended
        server.should_exit = True

    threading.Thread(target=follow_owner, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--owner", type=int, required=True)
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--ui", action="store_true")
    options = parser.parse_args()
    serve(options.owner, options.socket, options.ui)
