"""Servers: who they belong to, that they end with their owner, ports, and the pages of `segtrail ui`."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prefect_home import make_home
from small_project import RECORDED_WORK, SmallProject, wait_until

from flows import servers
from flows.locks import is_alive
from flows.servers import PrefectServer, answers, end_group, find_owners, start_server
from flows.ui import find_port
from pipeline.errors import SegtrailError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Prefect home of this test alone."""
    folder = make_home(tmp_path / "prefect")
    monkeypatch.setenv("PREFECT_HOME", str(folder))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv(servers.OWNER, raising=False)
    servers.find_server.cache_clear()
    yield folder
    servers.find_server.cache_clear()


def test_nobody_answers_on_a_closed_port() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/api"
    assert not answers(url)
    assert not answers("no address")
    assert not PrefectServer(url).wait(1)


def test_a_server_that_hangs_does_not_answer() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        assert not answers(f"http://127.0.0.1:{silent.getsockname()[1]}/api", 0.3)
        assert time.monotonic() - started < 5


@pytest.mark.slow
def test_a_server_ends_with_its_owner(home: Path) -> None:
    with subprocess.Popen(["sleep", "300"]) as owner:
        try:
            server = start_server(owner.pid)
            assert server.process is not None
            assert server.wait()
            assert os.getsid(server.process.pid) == server.process.pid  # Ctrl-C at a terminal leaves it alone
        finally:
            owner.kill()
    server.process.wait(30)
    assert not answers(server.url)


def test_stages_of_one_process_share_a_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(servers.OWNER, str(os.getpid()))
    first = servers.find_server()
    assert first.process is not None
    try:
        note = json.loads((home / "servers" / f"{os.getpid()}.json").read_text())
        assert note == {"url": first.url, "pid": first.process.pid}
        servers.find_server.cache_clear()  # as in the process of the next stage
        second = servers.find_server()
        assert (second.url, second.process) == (first.url, None)
    finally:
        end_group(first.process)
    servers.find_server.cache_clear()
    monkeypatch.setattr(servers, "start_server", lambda owner: PrefectServer("http://new"))
    assert servers.find_server().url == "http://new"


def test_an_address_that_does_not_answer_is_left_aside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(servers, "start_server", lambda owner: PrefectServer(f"http://new/{owner}"))
    assert servers.find_server().url == f"http://new/{os.getpid()}"


def test_notes_of_dead_processes_are_removed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    note = home / "servers" / f"{gone.pid}.json"
    note.parent.mkdir(parents=True)
    note.write_text("{}")
    monkeypatch.setattr(servers, "start_server", lambda owner: PrefectServer("http://new"))
    servers.find_server()
    assert not note.exists()


def test_owners_are_the_named_one_and_the_nearest_dvc(tmp_path: Path, home: Path) -> None:
    dvc = tmp_path / "dvc"  # what counts is the name
    dvc.write_text(
        f"#!{sys.executable}\nimport os, subprocess, sys\nprint(os.getpid(), flush=True)\n"
        "sys.exit(subprocess.run([sys.executable, '-c', "
        "'from flows.servers import find_owners; print(find_owners())']).returncode)\n"
    )
    dvc.chmod(0o755)
    run = subprocess.run(
        [dvc, "repro"], env={**os.environ, servers.OWNER: "123"}, capture_output=True, text=True, check=True
    )
    pid, owners = run.stdout.splitlines()
    assert owners == f"[123, {pid}]"
    assert find_owners() == []


@pytest.mark.parametrize(
    ("words", "stage"),
    [
        (["python", "-m", "flows.inspect"], True),
        (["python", "-X", "dev", "-m", "flows.train", "unet"], True),
        (["python", "-m", "flows.cli", "repro"], False),
        (["python", "-m", "flows.prefect_server", "--owner", "1"], False),
        (["python", "-m", "pytest"], False),
        (["python", "-m"], False),
        ([".venv/bin/segtrail", "repro"], False),
    ],
)
def test_what_a_stage_is(words: list[str], stage: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", words)
    assert servers.is_stage() is stage


def test_the_end_of_a_group_is_the_end_of_what_left_it(tmp_path: Path) -> None:
    """A stubborn grandchild in a session of its own, as a training process is."""
    pid_file = tmp_path / "pid"
    ignore = "trap '' TERM; sleep 300 & wait; sleep 300"
    process = subprocess.Popen(
        ["sh", "-c", f'setsid sh -c "{ignore}" & echo $! > {pid_file}; wait'], start_new_session=True
    )
    wait_until(lambda: pid_file.exists() and bool(pid_file.read_text()))
    grandchild = int(pid_file.read_text())
    time.sleep(0.2)
    end_group(process, timeout_s=0.5)
    assert process.returncode == -signal.SIGTERM
    wait_until(lambda: not is_alive(grandchild), 5)


def test_a_taken_port_is_skipped_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = find_port(port)
    assert port < found < port + 50
    assert capsys.readouterr().out == f"port {port} is taken, {found} is used\n"
    assert find_port(found) == found
    assert capsys.readouterr().out == ""


def test_no_port_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.ui.PORTS_TRIED", 0)
    with pytest.raises(SegtrailError, match="no free port"):
        find_port(5000)


def get(url: str) -> bytes:
    with urllib.request.urlopen(
        urllib.request.Request(url, headers={"Accept": "text/html"}), timeout=30
    ) as answer:
        content: bytes = answer.read()
        return content


@pytest.mark.slow
def test_both_pages_until_terminated(tmp_path: Path) -> None:
    project = SmallProject(tmp_path)
    project.create()
    first = 20000 + os.getpid() % 20000
    ui = project.start(["ui", "--mlflow-port", str(first), "--prefect-port", str(first + 100)])
    assert ui.stdout is not None
    try:
        text = ""
        while "Ctrl-C ends both." not in text:
            line = ui.stdout.readline()
            assert line, ui.communicate()
            text += line
        mlflow, prefect = re.findall(r"^(?:MLflow|Prefect) +(http://127.0.0.1:\d+)$", text, re.MULTILINE)
        assert b"MLflow" in get(mlflow)
        assert b"Prefect" in get(f"{prefect}/runs")
        assert json.loads(get(f"{prefect}/ui-settings"))["api_url"] == f"{prefect}/api"
        assert listening(ui.pid) == {"127.0.0.1"}
        assert "warning" not in text
        assert (tmp_path / ".segtrail/mlflow.db").is_file()
        assert (tmp_path / ".segtrail/prefect/prefect.db").is_file()
    finally:
        ui.terminate()
        ui.communicate(timeout=60)
    assert ui.returncode == 0
    for address in (mlflow, prefect):
        with pytest.raises(OSError, match="refused"):
            get(address)


def listening(pid: int) -> set[str]:
    """Addresses that a process and all below it listen on."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return {c.laddr.ip for p in family for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}


def status(url: str, **headers: str) -> int:
    """Status that a server answers a question about runs with."""
    body = json.dumps({"max_results": 1}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_told_to_be_reachable_with_a_password(tmp_path: Path) -> None:
    project = SmallProject(tmp_path)
    project.create(work=RECORDED_WORK)
    first = 22000 + os.getpid() % 20000
    ports = ["--mlflow-port", str(first), "--prefect-port", str(first + 100)]
    told = {"PREFECT_SERVER_API_AUTH_STRING": "segtrail:open-4711"}
    ui = project.start(["ui", *ports, "--host", "0.0.0.0", "--allowed-hosts", "lab.example.org"], **told)
    assert ui.stdout is not None
    try:
        text = ""
        while "Ctrl-C ends both." not in text:
            line = ui.stdout.readline()
            assert line, ui.communicate()
            text += line
        assert text.startswith(
            "warning: the servers listen on 0.0.0.0: whoever reaches this machine (lab.example.org)"
        )
        assert "open-4711" not in text
        assert listening(ui.pid) == {"0.0.0.0"}
        mlflow, prefect = re.findall(r"^(?:MLflow|Prefect) +(http://127.0.0.1:\d+)$", text, re.MULTILINE)
        experiments = f"{mlflow}/api/2.0/mlflow/experiments/search"
        own, foreign = f"lab.example.org:{first}", "evil.example.org"
        assert status(experiments, Host=own, Origin=f"http://{own}") == 200
        assert status(experiments, Host=foreign) == 403
        assert status(experiments, Host=own, Origin=f"http://{foreign}") == 403
        runs = f"{prefect}/api/flow_runs/count"
        assert status(runs) == 401
        secret = base64.b64encode(b"segtrail:open-4711").decode()
        assert status(runs, Authorization=f"Basic {secret}") == 200
        assert (
            json.loads(get(f"{prefect}/ui-settings"))["api_url"]
            == f"http://lab.example.org:{first + 100}/api"
        )
        # A stage is recorded by it: `segtrail` sends what the server asks for.
        done = project.run("repro", **told, PREFECT_API_URL=f"{prefect}/api", SEGTRAIL_NO_PREFECT="")
        assert done.returncode == 0, done.stderr
        assert "unrecorded" not in done.stdout
        doctor = project.run("doctor", **told, PREFECT_API_URL=f"{prefect}/api")
        assert "2 Completed" in doctor.stdout
    finally:
        ui.terminate()
        ui.communicate(timeout=60)
