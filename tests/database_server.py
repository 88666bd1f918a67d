"""A PostgreSQL server of the tests' own, from the system's packages; it asks for a password, as a real one does."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASSWORD = "let-me-in-4711"
USER = "segtrail"
UNPRIVILEGED = ("postgres", "nobody")  # it refuses to run as root
START_S = 60.0


@dataclass
class DatabaseServer:
    """A running server.

    Attributes:
        folder: Its data.
        port: On 127.0.0.1.
        process: The server.
        account: Options of `subprocess` that make it run as somebody else than root.
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    account: dict[str, Any]

    def create(self, name: str) -> None:
        """Makes an empty database."""
        self.query(f"CREATE DATABASE {name}")

    def query(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        import psycopg2

        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database
        )
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def mlflow_uri(self, database: str) -> str:
        return f"postgresql+psycopg2://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def prefect_uri(self, database: str) -> str:
        return f"postgresql+asyncpg://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def why_not() -> str:
    """Why no server can be started here, "" if one can."""
    missing = [name for name in ("initdb", "postgres") if not shutil.which(name)]
    if missing:
        return f"PostgreSQL is not installed: no {' and no '.join(missing)} in PATH"
    try:
        import psycopg2  # noqa: F401
    except ImportError:
        return "psycopg2 is not installed: pip install 'segtrail[servers]'"
    if os.geteuid() == 0 and _unprivileged() is None:
        return f"PostgreSQL refuses to run as root, and there is none of the users {', '.join(UNPRIVILEGED)}"
    return ""


def _unprivileged() -> pwd.struct_passwd | None:
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next((known[name] for name in UNPRIVILEGED if name in known), None)


def start_database_server(connections: int = 200) -> DatabaseServer:
    """Makes a data folder and starts a server on a free port of 127.0.0.1."""
    folder = Path(tempfile.mkdtemp(prefix="postgres_"))
    account: dict[str, Any] = {}
    if os.geteuid() == 0 and (user := _unprivileged()):
        account = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chown(folder, user.pw_uid, user.pw_gid)
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    data = folder / "data"
    subprocess.run(
        ["initdb", "--pgdata", data, "--username", USER, "--pwfile", password, "--auth", "scram-sha-256",
         "--encoding", "UTF8", "--no-sync"],
        check=True, capture_output=True, cwd=folder, **account,
    )  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
        "max_connections": connections, "fsync": "off",
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["postgres", "-D", data, *(word for k, v in settings.items() for word in ("-c", f"{k}={v}"))],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **account,
        )  # fmt: skip
    import psycopg2  # of the extra `servers`

    server = DatabaseServer(folder, port, process, account)
    end = time.monotonic() + START_S
    while True:
        try:
            server.query("SELECT 1")
            return server
        except psycopg2.OperationalError as error:
            if process.poll() is not None or time.monotonic() > end:
                server.stop()
                raise RuntimeError((folder / "log").read_text() if folder.is_dir() else "") from error
            time.sleep(0.1)
