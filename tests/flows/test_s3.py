"""S3 storage behind MLflow's artifacts and the DVC remote, with a password on MLflow and PostgreSQL below it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import model_project as made
import pytest
import s3_server
from database_server import DatabaseServer
from mlflow_store import forget_stores, link_code
from registered import GOOD, aliases, client, train_again
from small_project import SmallProject

from flows.exposure import LOCAL
from flows.servers import end_group
from flows.ui import _wait_for_mlflow, find_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3() -> Iterator[s3_server.S3Server]:
    if reason := s3_server.why_not():
        pytest.skip(reason)
    server = s3_server.start_s3_server()
    yield server
    server.stop()


def test_artifacts_lie_in_the_bucket(
    s3: s3_server.S3Server, postgres_server: DatabaseServer, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's server as `compose.yaml` starts it, with its user names and passwords on top."""
    postgres_server.create("with_s3")
    s3.create("mlflow")
    port = find_port(24000 + os.getpid() % 10000)
    accounts = project / "accounts.ini"
    accounts.write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\nadmin_password = admin-pass-4711\n"
        f"database_uri = sqlite:///{project}/accounts.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    log = project / "mlflow.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", LOCAL, "--port", str(port),
             "--artifacts-destination", "s3://mlflow", "--app-name", "basic-auth"],
            env={**os.environ, **s3.environment(), "MLFLOW_BACKEND_STORE_URI": postgres_server.mlflow_uri("with_s3"),
                 "MLFLOW_AUTH_CONFIG_PATH": str(accounts), "MLFLOW_FLASK_SERVER_SECRET_KEY": "made-up",
                 "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    address = f"http://{LOCAL}:{port}"
    try:
        _wait_for_mlflow(address, process)
        for name, value in (
            ("URI", address),
            ("USERNAME", "admin"),
            ("PASSWORD", "admin-pass-4711"),
        ):
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
        forget_stores()
        link_code(project)
        made.write_project()
        first = train_again("one", GOOD, 1)
        assert aliases() == {"champion": first, "challenger": first}, log.read_text()[-2000:]
        keys = s3.list("mlflow")
        assert any(key.endswith("/overlays/best_case_00.png") for key in keys)
        assert any(key.endswith("model.safetensors") for key in keys)
        number = client().get_model_version_by_alias("phantom", "champion").version
        folder = Path(
            client().get_model_version_download_uri("phantom", number).replace("mlflow-artifacts:", "")
        )
        assert not folder.exists()  # nothing of it lies on this machine
        assert not (project / ".segtrail" / "mlartifacts").exists()
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        forget_stores()
        with pytest.raises(Exception, match="401"):
            client().search_experiments()
    finally:
        end_group(process)
        forget_stores()


def test_dvc_pushes_to_the_bucket_and_another_clone_pulls(s3: s3_server.S3Server, tmp_path: Path) -> None:
    first, second = SmallProject(tmp_path / "first"), SmallProject(tmp_path / "second")
    first.folder.mkdir()
    first.create()
    s3.create("dvc")

    def run(folder: Path, *words: str) -> str:
        command = words if words[0] == "git" else [sys.executable, "-m", "dvc", *words]
        keys = s3_server.KEYS | {"AWS_EC2_METADATA_DISABLED": "true"}
        environment = {**first.environment(), **keys, "PYTHONPATH": ""}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert first.run("repro").returncode == 0
    run(first.folder, "remote", "add", "--default", "store", "s3://dvc/project")
    run(first.folder, "remote", "modify", "--local", "store", "endpointurl", s3.url)
    run(first.folder, "push")
    assert len(s3.list("dvc")) >= 1
    (first.folder / ".gitignore").write_text("/.segtrail\n")
    run(first.folder, "git", "add", "-A")
    run(first.folder, "git", "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "-qm", "one")
    run(tmp_path, "git", "clone", "-q", "first", "second")
    run(second.folder, "remote", "modify", "--local", "store", "endpointurl", s3.url)
    run(second.folder, "pull")
    assert second.read("out/second") == "one"
