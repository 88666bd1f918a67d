"""`segtrail doctor`: each check on a good and on a bad state, and what `--fix` does."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import torchvision
from mlflow import MlflowClient
from prefect_home import make_home
from small_project import DVC_CONFIG, wait_until

from flows import doctor, doctor_prefect, doctor_state
from flows.doctor import FAIL, OK, WARN, Check
from flows.locks import hold, is_alive

PROJECT = Path(__file__).resolve().parents[2]
SHA = "ab" * 32


def one(checks: Iterator[Check]) -> Check:
    (line,) = checks
    return line


@pytest.fixture
def home(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder whose Prefect home and MLflow store are its own, and not there yet."""
    monkeypatch.setenv("PREFECT_HOME", str(project / ".segtrail" / "prefect"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/.segtrail/mlflow.db")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))  # a server started here finds the code
    return project


def write_flow_runs(home: Path, *rows: tuple[str, str, str]) -> None:
    folder = home / ".segtrail" / "prefect"
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "prefect.db")) as connection, connection:
        connection.execute("CREATE TABLE flow_run (id TEXT, name TEXT, state_type TEXT, state_name TEXT)")
        connection.executemany(
            "INSERT INTO flow_run VALUES (?, ?, ?, ?)", [(i, n, s, s.title()) for i, n, s in rows]
        )


def test_text_of_a_line() -> None:
    assert str(Check(OK, "disk", "9 GB free")) == "ok    disk          9 GB free"
    text = str(Check(FAIL, "dvc", "gone", "dvc init"))
    assert text == "fail  dvc           gone\n                    fix: dvc init"


def test_a_lock_file_that_dvc_was_killed_in_writing(home: Path) -> None:
    rwlock = home / ".dvc" / "tmp" / "rwlock"
    rwlock.parent.mkdir(parents=True)
    rwlock.write_text('{"read": {}, "write": {}}')
    assert one(doctor_state.check_locks()) == Check(OK, "locks", "free")
    rwlock.write_text("")
    damaged = next(doctor_state.check_locks())
    assert (damaged.status, damaged.fix) == (FAIL, "segtrail doctor --fix")
    assert rwlock.is_file()
    assert next(doctor_state.check_locks(fix=True)).status == OK
    assert not rwlock.exists()


def test_packages_that_are_not_the_locked_ones(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("numpy==0.1\nno-such-package==1.0\npsutil==7.2.2 ; sys_platform == 'win32'\n# note\n")
    line = one(doctor.check_packages(lock))
    assert line.status == FAIL
    assert "(locked==0.1)" in line.found
    assert "no-such-package is missing (locked==1.0)" in line.found
    assert "psutil" not in line.found
    lock.write_text(f"torch=={torch.__version__.partition('+')[0]}\n")
    assert one(doctor.check_packages(lock)) == Check(OK, "packages", "1 as locked")
    assert one(doctor.check_packages(tmp_path / "none.lock")).status == FAIL


def test_torchvision_without_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(doctor.check_operators()).status == OK
    monkeypatch.setattr(torchvision.extension, "_has_ops", lambda: False)
    assert one(doctor.check_operators()).status == FAIL


def test_an_interpreter_from_elsewhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(doctor.check_python()).status == WARN
    monkeypatch.setattr(sys, "prefix", str(project / ".venv"))
    assert one(doctor.check_python()).status == OK


@pytest.mark.parametrize(("free_gb", "status"), [(0.5, FAIL), (5, WARN), (50, OK)])
def test_disk(free_gb: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=free_gb * 1e9))
    lines = {line.name: line for line in doctor.check_machine()}
    assert lines["disk"].status == status
    assert f"{free_gb:.1f} GB free" in lines["disk"].found


def test_a_driver_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "nvidia-smi")
    assert next(doctor.check_machine()).status == WARN


def test_params(project: Path) -> None:
    assert one(doctor.check_params()).found == "data set phantom, models unet, maskrcnn"
    (project / "params.yaml").write_text("modles: [unet]")
    line = one(doctor.check_params())
    assert line.status == FAIL
    assert "modles: unknown key" in line.found


def test_repository(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", "/")
    git, dvc = doctor.check_repository()
    assert (git.status, dvc.status) == (WARN, FAIL)
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text(DVC_CONFIG)
    (project / "dvc.yaml").write_text("stages:\n  a:\n    cmd: echo 1 > x\n    outs: [x]\n")
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], check=True, cwd=project)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *identity, "commit", "-q", "-m", "start"], check=True, cwd=project)
    git, dvc = doctor.check_repository()
    assert git.status == OK
    assert git.found.startswith("at ")
    assert dvc == Check(OK, "dvc", "dvc repro would execute: a")


def test_dvc_is_not_asked_while_it_is_busy(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text(DVC_CONFIG)
    monkeypatch.setattr(doctor, "_output", lambda *command: None)  # what a locked DVC comes to
    with hold(Path(".segtrail/repro.lock"), "segtrail repro"):
        _, dvc = doctor.check_repository()
    assert dvc == Check(OK, "dvc", f"not looked at: segtrail repro is running (pid {os.getpid()})")
    _, dvc = doctor.check_repository()  # the lock is free again
    assert dvc == Check(WARN, "dvc", "dvc status failed", "dvc status")


def test_locks(home: Path) -> None:
    assert one(doctor_state.check_locks()) == Check(OK, "locks", "free")
    with hold(Path(".segtrail/repro.lock"), "segtrail repro"):
        line = one(doctor_state.check_locks())
    assert line.status == WARN
    assert f"repro.lock is held by process {os.getpid()} (segtrail repro)" in line.found


def test_prefect(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(doctor_prefect.check_prefect()).found.startswith("no database yet")
    write_flow_runs(home, ("1", "inspect", "COMPLETED"), ("2", "plan", "COMPLETED"), ("3", "x", "FAILED"))
    assert one(doctor_prefect.check_prefect()).found.startswith("2 Completed, 1 Failed (")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert next(doctor_prefect.check_prefect()).status == WARN
    (home / ".segtrail/prefect/prefect.db").write_bytes(b"no database" * 100)
    assert list(doctor_prefect.check_prefect())[1].status == FAIL


def test_flow_runs_that_nobody_works_on(home: Path) -> None:
    assert one(doctor_prefect.check_stale_flow_runs()).status == OK
    write_flow_runs(
        home, ("1", "train unet", "RUNNING"), ("2", "plan", "COMPLETED"), ("3", "inspect", "RUNNING")
    )
    line = one(doctor_prefect.check_stale_flow_runs())
    assert line.status == WARN
    assert line.found == "2 say Running but nobody works on them: train unet, inspect"
    # A stage that is at work in this folder:
    code = "import time; print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, "flows.train"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            line = one(doctor_prefect.check_stale_flow_runs())
        finally:
            process.kill()
    assert line.found == "1 say Running but nobody works on them: inspect"


@pytest.mark.slow
def test_fix_closes_flow_runs(home: Path) -> None:
    from flows.servers import start_server

    make_home(home / ".segtrail" / "prefect")
    server = start_server(os.getpid())
    try:
        assert server.wait()
        from prefect.client.orchestration import SyncPrefectClient
        from prefect.flows import flow
        from prefect.states import Running

        with SyncPrefectClient(server.url) as client:
            client.create_flow_run(flow(lambda: None, name="train"), name="train unet", state=Running())
    finally:
        server.stop()
    assert one(doctor_prefect.check_stale_flow_runs()).status == WARN
    line = one(doctor_prefect.check_stale_flow_runs(fix=True))
    assert (line.status, line.found[-6:]) == (OK, "closed")
    assert one(doctor_prefect.check_stale_flow_runs()).status == OK


@pytest.fixture
def orphan(home: Path) -> Iterator[int]:
    """A training process whose parent was killed."""
    code = "import time; time.sleep(300)"
    start = (
        "import subprocess, sys; "
        f"print(subprocess.Popen([sys.executable, '-c', {code!r}, 'pipeline.train_worker'], "
        "start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
    )
    run = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=True)
    pid = int(run.stdout)
    yield pid
    if psutil.pid_exists(pid):
        psutil.Process(pid).kill()


def test_orphans(orphan: int) -> None:
    line = one(doctor_state.check_orphans())
    assert line.status == WARN
    assert f"process {orphan} has lost its parent" in line.found
    assert is_alive(orphan)
    assert one(doctor_state.check_orphans(fix=True)).found.endswith("; ended")
    wait_until(lambda: not is_alive(orphan), 10)
    assert one(doctor_state.check_orphans()) == Check(OK, "orphans", "none")


def test_a_worker_with_its_parent_is_no_orphan(home: Path) -> None:
    code = "import time; print(flush=True); time.sleep(60)"
    words = [sys.executable, "-c", code, "pipeline.train_worker"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            assert doctor_state.find_orphans() == []
        finally:
            process.kill()


def test_orphans_of_other_projects_are_left_alone(
    orphan: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    os.chdir(tmp_path_factory.mktemp("other"))
    assert doctor_state.find_orphans() == []


def test_no_mlflow_store_yet(home: Path) -> None:
    assert one(doctor_state.check_mlflow()).found.startswith("no store yet")
    assert list(doctor_state.check_stale_training_runs()) == []
    assert not (home / ".segtrail/mlflow.db").exists()  # looking does not make one


def test_a_broken_mlflow_store(home: Path) -> None:
    (home / ".segtrail").mkdir()
    (home / ".segtrail/mlflow.db").write_bytes(b"no database" * 100)
    line = one(doctor_state.check_mlflow())
    assert line.status == FAIL
    assert "dvc repro register" in line.fix


def decide(champion: str) -> None:
    folder = Path("data/registry/versions/phantom")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "decision.json").write_text(json.dumps({"name": "phantom", "champion_after": champion}))


def test_registry_against_files(tracked: Path) -> None:
    def registry() -> Check:
        return list(doctor_state.check_mlflow())[1]

    assert registry().found == "phantom has no champion yet"
    decide(SHA)
    line = registry()
    assert line.status == WARN
    assert "MLflow does not know phantom@champion" in line.found
    client = MlflowClient()
    client.create_registered_model("phantom")
    client.create_model_version("phantom", str(tracked), tags={"segtrail.bundle_sha256": "cd" * 32})
    client.set_registered_model_alias("phantom", "champion", "1")
    line = registry()
    assert line.status == WARN
    assert "is cdcdcdcdcdcd in MLflow, abababababab in decision.json" in line.found
    client.set_model_version_tag("phantom", "1", "segtrail.bundle_sha256", SHA)
    assert registry() == Check(OK, "registry", "phantom@champion is version 1 (abababababab)")


def test_training_runs_of_dead_processes(tracked: Path) -> None:
    client = MlflowClient()
    dead = subprocess.Popen(["true"])
    dead.wait()
    pids = {"dead": dead.pid, "alive": os.getpid()}
    runs = {name: client.create_run("0", tags={"segtrail.pid": str(pid)}) for name, pid in pids.items()}
    line = one(doctor_state.check_stale_training_runs())
    assert (line.status, line.found[:5]) == (WARN, "1 say")
    assert one(doctor_state.check_stale_training_runs(fix=True)).status == OK
    status = {name: client.get_run(run.info.run_id).info.status for name, run in runs.items()}
    assert status == {"dead": "KILLED", "alive": "RUNNING"}


@pytest.mark.parametrize(("status", "code"), [(OK, 0), (WARN, 0), (FAIL, 1)])
def test_exit_code(
    status: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(*arguments: object) -> Iterator[Check]:
        return iter(())

    for module in (doctor, doctor_prefect, doctor_state):
        for name in [name for name in vars(module) if name.startswith("check_")]:
            monkeypatch.setattr(module, name, nothing)
    found: Callable[[], Iterator[Check]] = lambda: iter([Check(status, "disk", "x")])  # noqa: E731
    monkeypatch.setattr(doctor, "check_machine", found)
    assert doctor.run_doctor() == code
    assert capsys.readouterr().out.splitlines()[0] == f"{status:<5} disk          x"
