"""Requests of many clients wait for their turn in the Prefect server: none is refused because others write."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AsyncPostgresConfiguration, BaseDatabaseConfiguration
from prefect.server.database.dependencies import provide_database_interface, temporary_database_config
from prefect.server.database.interface import PrefectDBInterface
from prefect.server.database.orm_models import AioSqliteORMConfiguration
from prefect.server.database.query_components import AioSqliteQueryComponents
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flows.prefect_server import AT_ONCE, InTurn, WriteFirst, use_write_first

READ, ADD = sa.text("SELECT value FROM counter"), sa.text("UPDATE counter SET value = :value")
TRANSACTIONS = 12
HANGS_S = 30.0  # SQLite would wait for a lock that is never freed for 60 s


def make_database(folder: Path) -> PrefectDBInterface:
    """A database with one number in it."""
    config = WriteFirst(connection_url=f"sqlite+aiosqlite:///{folder / 'prefect.db'}")
    return PrefectDBInterface(
        database_config=config, query_components=AioSqliteQueryComponents(), orm=AioSqliteORMConfiguration()
    )


async def make_counter(database: PrefectDBInterface) -> None:
    async with database.session_context(begin_transaction=True) as session:
        await session.execute(sa.text("CREATE TABLE counter (value INTEGER)"))
        await session.execute(sa.text("INSERT INTO counter VALUES (0)"))


async def read_and_add(database: PrefectDBInterface) -> None:
    """As Prefect's requests do it: first a look, then what is written because of it."""
    async with database.session_context(begin_transaction=True) as session:
        value = (await session.execute(READ)).scalar_one()
        await asyncio.sleep(0.01)
        await session.execute(ADD, {"value": value + 1})


def test_of_transactions_that_read_before_they_write_none_is_refused_and_none_lost(tmp_path: Path) -> None:
    database = make_database(tmp_path)

    async def run() -> int:
        await make_counter(database)
        await asyncio.gather(*(read_and_add(database) for _ in range(TRANSACTIONS)))
        async with database.session_context() as session:
            return int((await session.execute(READ)).scalar_one())

    assert asyncio.run(run()) == TRANSACTIONS


def test_a_look_from_within_a_transaction_does_not_wait_for_it(tmp_path: Path) -> None:
    database = make_database(tmp_path)

    async def run() -> tuple[int, int]:
        await make_counter(database)
        async with database.session_context(begin_transaction=True) as session:
            await session.execute(ADD, {"value": 7})
            async with database.session_context() as beside:
                seen = (await beside.execute(READ)).scalar_one()
        async with database.session_context() as after:
            return int(seen), int((await after.execute(READ)).scalar_one())

    assert asyncio.run(asyncio.wait_for(run(), HANGS_S)) == (0, 7)


def test_a_transaction_that_fails_leaves_nothing_and_holds_up_nobody(tmp_path: Path) -> None:
    database = make_database(tmp_path)

    async def fail() -> None:
        async with database.session_context(begin_transaction=True) as session:
            await session.execute(ADD, {"value": 99})
            raise LookupError

    async def run() -> int:
        await make_counter(database)
        for error in await asyncio.gather(fail(), fail(), return_exceptions=True):
            assert isinstance(error, LookupError)
        await read_and_add(database)
        async with database.session_context() as session:
            return int((await session.execute(READ)).scalar_one())

    assert asyncio.run(asyncio.wait_for(run(), HANGS_S)) == 1


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite+aiosqlite:///prefect.db", WriteFirst),
        ("postgresql+asyncpg://prefect@127.0.0.1/prefect", AsyncPostgresConfiguration),
    ],
)
def test_the_server_uses_it_for_sqlite_only(url: str, expected: type[BaseDatabaseConfiguration]) -> None:
    with (
        temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: url}),
        temporary_database_config(None),
    ):
        use_write_first()
        assert type(provide_database_interface().database_config) is expected


def test_a_few_requests_go_in_at_a_time_in_their_order_and_a_look_waits_for_none() -> None:
    entered, at_work, most = list[str](), 0, 0
    opened = asyncio.Event()

    async def work(request: Request) -> Response:
        nonlocal at_work, most
        if request.method == "GET":
            return PlainTextResponse("healthy")
        at_work += 1
        most = max(most, at_work)
        entered.append((await request.body()).decode())
        await opened.wait()
        at_work -= 1
        return PlainTextResponse("written")

    async def run() -> tuple[str, list[str]]:
        app = InTurn(Starlette(routes=[Route("/", work, methods=["GET", "POST"])]))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            posts = [asyncio.create_task(client.post("/", content=f"{i}")) for i in range(3 * AT_ONCE)]
            while len(entered) < AT_ONCE:
                await asyncio.sleep(0)
            looked = (await client.get("/")).text
            opened.set()
            return looked, [answer.text for answer in await asyncio.gather(*posts)]

    looked, answers = asyncio.run(asyncio.wait_for(run(), HANGS_S))
    assert looked == "healthy"
    assert answers == ["written"] * 3 * AT_ONCE
    assert entered == [f"{i}" for i in range(3 * AT_ONCE)]
    assert most == AT_ONCE
