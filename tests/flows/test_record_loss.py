"""What Prefect's client gives up is told once, and nothing else is taken for it."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest
from prefect._internal.concurrency import logger, services

from flows.record_loss import INTERNAL, WORKERS, LossTeller, tell_losses


@pytest.fixture
def heard() -> Iterator[None]:
    """Prefect's logger with our handler, as before afterwards."""
    root = logging.getLogger(INTERNAL)
    before = root.handlers[:]
    tell_losses()
    yield
    root.handlers[:] = before


def lose(
    module: str, text: str = "Service 'EventsWorker' failed with 15 pending items."
) -> logging.LogRecord:
    """What Prefect's worker says when it dies."""
    return logging.LogRecord(logger.name, logging.ERROR, f"{module}.py", 1, text, None, None)


@pytest.mark.usefixtures("heard")
def test_many_losses_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        logger.handle(lose(WORKERS))
    assert capsys.readouterr().err == (
        "segtrail: warning: Prefect's page of this stage may lack task runs (Service 'EventsWorker' failed with 15 "
        "pending items.); the loss is in that record only\n"
    )


@pytest.mark.usefixtures("heard")
def test_other_trouble_within_prefect_is_no_loss(capsys: pytest.CaptureFixture[str]) -> None:
    logger.handle(lose("threads"))
    logging.getLogger("prefect.events.clients").error("Unable to connect")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("heard")
def test_who_asks_twice_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    tell_losses()
    logger.handle(lose(WORKERS))
    assert capsys.readouterr().err.count("segtrail: warning") == 1


def test_where_nobody_reads_the_worker_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    teller = LossTeller()
    teller.emit(lose(WORKERS))
    assert teller.told


def test_the_module_of_prefects_workers_has_that_name() -> None:
    assert services.__name__.rpartition(".")[2] == WORKERS
    assert logger.name.startswith(INTERNAL)
