"""A night on Prefect's pages: an artifact that a person reads, and an event that an automation may act on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from flows.attempts import DeliveryError
from flows.messages import Message, model_name
from flows.servers import answers

ARTIFACT = "nightly"
EVENT = "segtrail.night"
ANSWER_S = 10.0  # a server that a whole night has kept busy may take some


def find_api() -> str:
    """Address of the Prefect server that answers; "" for none. Inside a flow run it is the run's own."""
    url = os.environ.get("PREFECT_API_URL", "")
    if "prefect.context" in sys.modules:  # its import takes a second, and no flow runs without it
        from prefect.context import FlowRunContext
        from prefect.settings import PREFECT_API_URL

        if FlowRunContext.get() is not None:
            url = str(PREFECT_API_URL.value() or "")
    return url if url and answers(url, ANSWER_S) else ""


def publish(message: Message, night: Mapping[str, Any], url: str) -> None:
    """Writes the artifact `nightly` and the event `segtrail.night.<state>`.

    Args:
        message: The text of the artifact.
        night: Its record; a flow run that it names has the artifact on its page.
        url: From `find_api`.

    Raises:
        DeliveryError: The server was lost, or does not want them.
    """
    from prefect.artifacts import create_markdown_artifact
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    try:
        with _at(url):
            create_markdown_artifact(message.markdown, key=ARTIFACT, description=message.title)
            with get_client(sync_client=True) as client:
                # By the interface that answers: the worker of `emit_event` loses what it cannot send.
                client.request("POST", "/events", json=[_event(message, night)]).raise_for_status()
    except (PrefectException, httpx.HTTPError, RuntimeError, OSError) as error:
        raise DeliveryError(f"{type(error).__name__}: {error}", again=False) from None


def _event(message: Message, night: Mapping[str, Any]) -> dict[str, Any]:
    from prefect.events import Event

    resource = {
        "prefect.resource.id": f"segtrail.project.{Path.cwd().name}",
        "prefect.resource.name": model_name(night),
    }
    run = night.get("prefect_run_id")
    related = (
        [{"prefect.resource.id": f"prefect.flow-run.{run}", "prefect.resource.role": "flow-run"}]
        if run
        else []
    )
    payload = {
        "title": message.title,
        "level": message.level,
        "night_id": night["night_id"],
        "reason": night["reason"],
    }
    event = Event.model_validate(
        {"event": f"{EVENT}.{night['state']}", "resource": resource, "related": related, "payload": payload}
    )
    return event.model_dump(mode="json")


@contextmanager
def _at(url: str) -> Iterator[None]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}):
        yield
