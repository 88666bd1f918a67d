"""MLflow and Prefect on PostgreSQL: the same results as on SQLite, and no password where others can read it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import model_project as made
import pytest
from database_server import PASSWORD, DatabaseServer
from mlflow_store import forget_stores, link_code
from registered import GOOD, aliases, client, run_register, train_again, versions
from small_project import RECORDED_WORK, SmallProject

from flows import tracking, tracking_database

pytestmark = pytest.mark.slow


@pytest.fixture
def on_postgres(
    postgres_server: DatabaseServer, project: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:  # fmt: skip
    """A project whose store is an empty database of the server; gives its address."""
    name = re.sub(r"\W", "_", request.node.name)[:60].lower()
    postgres_server.create(name)
    uri = postgres_server.mlflow_uri(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(tracking_database, "_READY", set())
    forget_stores()
    link_code(project)
    (project / ".segtrail").mkdir()
    yield uri
    forget_stores()


def test_versions_and_aliases_are_registered_and_rebuilt(
    on_postgres: str, postgres_server: DatabaseServer
) -> None:
    made.write_project()
    first = train_again("one", GOOD, 1)
    assert aliases() == {"champion": first, "challenger": first}
    assert list(versions().values()) == [first]
    run = client().get_run(client().get_model_version("phantom", "1").run_id)
    assert run.data.metrics["test/dice"] == pytest.approx(0.825)
    assert (Path(run.info.artifact_uri) / "overlays" / "best_case_00.png").is_file()
    # The database is lost: what the files say comes back.
    lost = on_postgres.rpartition("/")[2]
    forget_stores()
    postgres_server.query(f"DROP DATABASE {lost} WITH (FORCE)")
    postgres_server.create(lost)
    tracking_database._READY.clear()
    run_register()
    assert aliases() == {"champion": first, "challenger": first}


def test_many_processes_find_an_empty_database_at_once(on_postgres: str) -> None:
    code = "from flows.tracking_store import open_client; open_client().create_experiment(__import__('sys').argv[1])"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, f"e{i}"], stderr=subprocess.PIPE, text=True) for i in range(4)
    ]  # fmt: skip
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    assert {e.name for e in client().search_experiments()} >= {f"e{i}" for i in range(4)}


def test_a_server_that_is_away_is_told_at_once_without_the_password(
    project: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql+psycopg2://segtrail:{PASSWORD}@127.0.0.1:9/none")
    made.write_project()
    made.train("unet", "weights")
    started = time.monotonic()
    assert tracking.record_training("unet") is None
    assert time.monotonic() - started < 30  # MLflow alone: 100 s
    (line,) = [line for line in messages if "the files are safe" in line]
    assert "refused" in line
    assert PASSWORD not in line


def test_a_stage_is_recorded_by_both(postgres_server: DatabaseServer, tmp_path: Path) -> None:
    """`segtrail repro` and `doctor` with both addresses set, as a user sets them."""
    for name in ("both_mlflow", "both_prefect"):
        postgres_server.create(name)
    project = SmallProject(tmp_path)
    project.create(work=RECORDED_WORK)
    more = {
        "MLFLOW_TRACKING_URI": postgres_server.mlflow_uri("both_mlflow"),
        "PREFECT_API_DATABASE_CONNECTION_URL": postgres_server.prefect_uri("both_prefect"),
        "SEGTRAIL_NO_PREFECT": "",
    }
    done = project.run("repro", **more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert project.read("out/second") == "one"
    rows = postgres_server.query("SELECT name, state_type::text FROM flow_run ORDER BY name", "both_prefect")
    assert rows == [("work first", "COMPLETED"), ("work second", "COMPLETED")]
    doctor = project.run("doctor", **more)
    assert not (tmp_path / ".segtrail/mlflow.db").exists()
    assert not (tmp_path / ".segtrail/prefect/prefect.db").exists()
    lines = {
        line.split()[1]: line
        for line in doctor.stdout.splitlines()
        if line.startswith(("ok", "warn", "fail"))
    }
    assert "2 Completed" in lines["prefect"], doctor.stdout
    assert "store at postgresql+psycopg2://" in doctor.stdout
    written = [path for path in (tmp_path / ".segtrail").rglob("*") if path.is_file()]
    texts = [
        doctor.stdout,
        doctor.stderr,
        done.stdout,
        done.stderr,
        *(p.read_text(errors="replace") for p in written),
    ]
    assert not [text for text in texts if PASSWORD in text]
