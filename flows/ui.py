"""`segtrail ui`: MLflow's and Prefect's pages on this project's stores, until Ctrl-C."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.environment import state_folder
from flows.exposure import LOCAL, describe_exposure, is_local, mlflow_options, reachable_names
from flows.servers import PrefectServer, end_group, interrupt_on, local_address, log_path, start_server
from pipeline.errors import SegtrailError

MLFLOW_PORT = 5000
PREFECT_PORT = 4200
PORTS_TRIED = 50
START_TIMEOUT_S = 120.0
SQLITE = "sqlite:///"
VIEW = "workflowType=machine_learning"  # MLflow opens its pages for language models otherwise


def run_ui(
    mlflow_port: int = MLFLOW_PORT, prefect_port: int = PREFECT_PORT, host: str = LOCAL, names: str = ""
) -> int:
    """Starts both pages, prints where they are, and ends both on Ctrl-C or SIGTERM.

    Args:
        mlflow_port: First port to try.
        prefect_port: First port to try.
        host: Address to listen on; with another than 127.0.0.1 a warning is printed.
        names: Names by which others may call this machine, separated by commas; "" for its own.

    Returns:
        Exit code: 0 after Ctrl-C.

    Raises:
        SegtrailError: One of them does not start, or has ended by itself.
    """
    interrupt_on(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    called = [] if is_local(host) else reachable_names(host, names)
    if called:
        _write("\n".join(describe_exposure(host, called)) + "\n")
    mlflow: subprocess.Popen[bytes] | None = None
    prefect = None
    try:
        prefect = start_server(os.getpid(), find_port(prefect_port, host), True, host, (called or [""])[0])
        address = os.environ["MLFLOW_TRACKING_URI"]
        if not address.startswith("http"):
            address, mlflow = start_mlflow(find_port(mlflow_port, host), host, called)
            _wait_for_mlflow(address, mlflow)
        if not prefect.wait():
            raise _failed("Prefect", log_path())
        _write("\n".join(_describe(address, prefect.url)) + "\n")
        _watch(mlflow, prefect)
    except KeyboardInterrupt:
        _write("\n")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave a server behind
        for process in (mlflow, prefect.process if prefect else None):
            if process is not None:
                end_group(process)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return 0


def start_mlflow(
    port: int, host: str = LOCAL, names: Sequence[str] = ()
) -> tuple[str, subprocess.Popen[bytes]]:
    """Starts MLflow's pages without its job runners, which would cost 13 processes and 2.4 GB.

    Args:
        port: A free one.
        host: Address to listen on.
        names: By which others may call it.

    Returns:
        Address and process, which leads a group of its own.
    """
    log = _mlflow_log()
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--artifacts-destination", str(state_folder() / "mlartifacts")),
        *("--host", host, "--port", str(port)),
        *(mlflow_options(list(names), port) if names else []),
    ]
    _make_store()
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={
                **os.environ,
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                # Not on the command line, which every user of the machine can read: it may hold a password.
                "MLFLOW_BACKEND_STORE_URI": os.environ["MLFLOW_TRACKING_URI"],
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return local_address(host, port), process


def _make_store() -> None:
    """Makes the database if there is none: MLflow's server and a stage must not do so at the same time."""
    database = os.environ["MLFLOW_TRACKING_URI"].removeprefix(SQLITE)
    if database != os.environ["MLFLOW_TRACKING_URI"] and not Path(database).is_file():
        from flows.tracking_store import open_client  # 1 s

        open_client()


def find_port(first: int, host: str = LOCAL) -> int:
    """The first port from `first` on that nobody listens on; says so when it is another one.

    Raises:
        SegtrailError: None of the next 50 is free.
    """
    for port in range(first, first + PORTS_TRIED):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
        if port != first:
            _write(f"port {first} is taken, {port} is used\n")
        return port
    raise SegtrailError(
        f"no free port from {first} to {first + PORTS_TRIED - 1}", host, "end a server, or name a port"
    )


def _wait_for_mlflow(address: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise _failed("MLflow", _mlflow_log())


def _mlflow_log() -> Path:
    return state_folder() / "logs" / "mlflow-server.log"


def _failed(name: str, path: Path) -> SegtrailError:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return SegtrailError(f"{name}'s server did not start or has ended: {last}", str(path), "segtrail doctor")


def _describe(mlflow: str, prefect_api: str) -> list[str]:
    """Lines with the addresses: the pages, and what this project has on them."""
    pages = prefect_api.removesuffix("/api")
    lines = [f"MLflow   {mlflow}"]
    for experiment in _ask(mlflow, "experiments/search", "experiments", {"max_results": 20}):
        if experiment["name"] != "Default":
            link = f"{mlflow}/#/experiments/{experiment['experiment_id']}/runs?{VIEW}"
            lines.append(f"  experiment {experiment['name']:<20} {link}")
    for model in _ask(mlflow, "registered-models/search?max_results=20", "registered_models", None):
        lines.append(f"  model      {model['name']:<20} {mlflow}/#/models/{model['name']}?{VIEW}")
    lines += [f"Prefect  {pages}", f"  runs{' ' * 28}{pages}/runs"]
    report = Path("data/report/index.html")
    if report.is_file():
        lines.append(f"report   {report.resolve().as_uri()}")
    return [*lines, "Ctrl-C ends both."]


def _ask(address: str, route: str, key: str, body: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Asks MLflow's REST interface; an empty list when it has nothing or does not answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/{route}", data, {"Content-Type": "application/json", **_credentials()}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer).get(key, [])
    except (urllib.error.URLError, OSError, ValueError):
        return []
    return found


def _credentials() -> dict[str, str]:
    """Header with the user of MLflow's own variables, for a server that asks for one."""
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
    if not (user and password):
        return {}
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def _watch(mlflow: subprocess.Popen[bytes] | None, prefect: PrefectServer) -> None:
    """Returns never; a server that ends by itself is an error."""
    while True:
        time.sleep(1)
        if mlflow is not None and mlflow.poll() is not None:
            raise _failed("MLflow", _mlflow_log())
        if prefect.process is not None and prefect.process.poll() is not None:
            raise _failed("Prefect", log_path())


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
