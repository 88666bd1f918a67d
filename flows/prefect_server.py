"""The process of a Prefect server that `flows.servers` starts; it ends with its owner."""

from __future__ import annotations

import argparse
import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from prefect.server.api.server import create_app
from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from prefect.server.database.dependencies import MODELS_DEPENDENCIES
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from flows.locks import is_alive
from flows.servers import STOP_TIMEOUT_S

AT_ONCE = 8  # of the 15 connections of Prefect's pool, which its own services need, too
READING = ("GET", "HEAD", "OPTIONS")


class WriteFirst(AioSqliteConfiguration):
    """SQLite whose transactions get the right to write before they read anything.

    Prefect's begin by reading. When somebody writes between that and their own first write, SQLite refuses at once,
    however long it has been told to wait, and Prefect answers 503; its clients give up after a few of those. With
    `BEGIN IMMEDIATE` they wait, for up to Prefect's 60 s.
    """

    @asynccontextmanager
    async def begin_transaction(
        self, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncIterator[AsyncSessionTransaction]:
        async with super().begin_transaction(session, with_for_update=True) as transaction:
            # It begins here: a session that opens within this one must not begin so, too, and wait for it.
            await session.connection()
            SQLITE_BEGIN_MODE.set("DEFERRED")
            yield transaction


def use_write_first() -> None:
    """Makes Prefect's server use `WriteFirst` where its database is SQLite; call before it is made."""
    database = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if database.startswith("sqlite"):
        MODELS_DEPENDENCIES["database_config"] = WriteFirst(database)


class InTurn:
    """Lets a few requests in at a time, in the order of their arrival, but for those that are known to read only.

    Who waits for a connection of Prefect's pool longer than 30 s gets an error 500, which clients do not repeat.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.room = asyncio.Semaphore(AT_ONCE)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] in READING:
            await self.app(scope, receive, send)
            return
        async with self.room:
            await self.app(scope, receive, send)


def serve(owner: int, descriptor: int, with_ui: bool) -> None:
    """Runs the server on a listening socket until its owner ends or it gets SIGTERM.

    Args:
        owner: A process id.
        descriptor: Of the socket, inherited.
        with_ui: Serve the pages and run the scheduler too.
    """
    use_write_first()
    app = create_app(ephemeral=not with_ui, final=True)
    config = uvicorn.Config(
        InTurn(app), log_level="error", lifespan="on", access_log=False, timeout_graceful_shutdown=5
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
