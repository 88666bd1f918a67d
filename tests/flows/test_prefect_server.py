"""Requests that Prefect's database refuses for a moment are repeated by the server, out of the client's sight."""

from __future__ import annotations

import asyncio
import sqlite3

import httpx
import pytest
from prefect.server.api.server import custom_internal_exception_handler
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flows.prefect_server import Patient


def ask(errors: list[Exception], requests: int = 1) -> tuple[list[tuple[int, str]], list[int]]:
    """Posts at once to an application with Prefect's handler of errors.

    Args:
        errors: What the application raises before it answers.
        requests: Number of them.

    Returns:
        Status and text of each answer, and for each try how many were at work.
    """
    at_work, seen = 0, list[int]()

    async def work(request: Request) -> Response:
        nonlocal at_work
        at_work += 1
        seen.append(at_work)
        body = await request.body()
        await asyncio.sleep(0.01)
        at_work -= 1
        if errors:
            raise errors.pop(0)
        return PlainTextResponse(body)

    handlers = {Exception: custom_internal_exception_handler}
    app = Starlette(routes=[Route("/", work, methods=["POST"])], exception_handlers=handlers)

    async def post() -> list[tuple[int, str]]:
        transport = httpx.ASGITransport(Patient(app, 1), raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            answers = await asyncio.gather(*(client.post("/", content=f"body {i}") for i in range(requests)))
        return [(answer.status_code, answer.text) for answer in answers]

    return asyncio.run(post()), seen


def locked() -> OperationalError:
    return OperationalError("UPDATE flow_run", {}, sqlite3.OperationalError("database is locked"))


def test_a_request_that_a_locked_database_refused_is_repeated_whole() -> None:
    answers, seen = ask([locked(), locked()])
    assert answers == [(200, "body 0")]
    assert len(seen) == 3


def test_another_error_is_not_repeated() -> None:
    errors: list[Exception] = [
        OperationalError("SELECT", {}, sqlite3.OperationalError("disk I/O error")),
        locked(),
    ]
    with pytest.raises(OperationalError, match="disk I/O error"):
        ask(errors)
    assert len(errors) == 1


def test_one_goes_in_after_the_other() -> None:
    answers, seen = ask([], requests=5)
    assert answers == [(200, f"body {i}") for i in range(5)]
    assert seen == [1, 1, 1, 1, 1]
