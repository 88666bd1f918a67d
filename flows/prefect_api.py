"""Prefect's REST interface, for commands that must not pay for `import prefect` (2 s of CPU)."""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from pipeline.errors import SegtrailError

Record = dict[str, Any]
ATTEMPTS = 5
PAUSE_S = 1.0
PAGE = 200  # what a Prefect server returns at most


def ask(url: str, route: str, body: Record | None = None, attempts: int = ATTEMPTS) -> Any:
    """Sends one request: POST with a body, else GET.

    Args:
        url: The server's API, such as `http://127.0.0.1:4200/api`.
        route: Below it, such as `flow_runs/filter`.
        body: JSON object.
        attempts: How often at most; a server whose SQLite is busy answers 503.

    Raises:
        SegtrailError: It does not answer, or refuses.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url.rstrip('/')}/{route}", data, _headers())
    for attempt in range(attempts):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:300]
            if error.code != 503 or attempt == attempts - 1:
                raise SegtrailError(
                    f"the Prefect server refuses {route}: {error.code} {said}", url, "segtrail doctor"
                ) from error
        except (OSError, ValueError) as error:
            if attempt == attempts - 1:
                raise SegtrailError(
                    f"the Prefect server does not answer: {error}", url, "segtrail doctor"
                ) from error
        time.sleep(PAUSE_S)
    return None


def find_deployment(url: str, flow: str, name: str) -> Record | None:
    """A deployment by name, None when the server has none."""
    found: list[Record] = ask(
        url,
        "deployments/filter",
        {"flows": {"name": {"any_": [flow]}}, "deployments": {"name": {"any_": [name]}}, "limit": 1},
    )
    return found[0] if found else None


def list_runs(url: str, deployment_id: str, states: Sequence[str], **more: Record) -> list[Record]:
    """Runs of a deployment in states such as "RUNNING", oldest first.

    Args:
        url: The server's API.
        deployment_id: Of the deployment.
        states: Types of state.
        more: Further filters of flow runs, as Prefect has them.
    """
    body = {
        "deployments": {"id": {"any_": [deployment_id]}},
        "flow_runs": {"state": {"type": {"any_": list(states)}}, **more},
        "sort": "EXPECTED_START_TIME_ASC",
        "limit": PAGE,
    }
    found: list[Record] = ask(url, "flow_runs/filter", body)
    return found


def set_state(url: str, run_id: str, kind: str, name: str, message: str) -> bool:
    """Puts a run into a state, whatever Prefect's rules say; False when the server does not take it.

    Args:
        url: The server's API.
        run_id: Of the flow run.
        kind: Type of the state, such as "CRASHED".
        name: What the pages show.
        message: Why, for a person.
    """
    state = {"type": kind, "name": name, "message": message}
    try:
        ask(url, f"flow_runs/{run_id}/set_state", {"state": state, "force": True})
    except SegtrailError:
        return False
    return True


def mark_crashed(url: str, run_id: str, message: str) -> bool:
    """Ends a run whose process is gone."""
    return set_state(url, run_id, "CRASHED", "Crashed", message)


def _headers() -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    return headers
