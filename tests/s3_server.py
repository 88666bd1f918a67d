"""An S3 server of the tests' own: moto, in an environment that is built once from the package index."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

VERSION = "5.2.5"
HOME = Path(__file__).resolve().parents[1] / ".segtrail" / "benchmarks" / "moto"
START_S = 60.0
KEYS = {
    "AWS_ACCESS_KEY_ID": "segtrail",
    "AWS_SECRET_ACCESS_KEY": "store-4711",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass
class S3Server:
    """A running server; what it stores lies in its memory.

    Attributes:
        url: Its address.
        process: The server.
    """

    url: str
    process: subprocess.Popen[bytes]

    def environment(self) -> Mapping[str, str]:
        """Variables by which MLflow and boto3 find it."""
        return {**KEYS, "MLFLOW_S3_ENDPOINT_URL": self.url, "AWS_EC2_METADATA_DISABLED": "true"}

    def create(self, bucket: str) -> None:
        request = urllib.request.Request(f"{self.url}/{bucket}", method="PUT")
        with urllib.request.urlopen(request, timeout=10):
            pass

    def list(self, bucket: str) -> list[str]:
        """Keys of a bucket."""
        import boto3

        client = boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1",
        )  # fmt: skip
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def why_not() -> str:
    """Why no server can be started here, "" if one can; builds its environment when it is missing."""
    try:
        import boto3  # noqa: F401
        import dvc_s3  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed: pip install 'segtrail[servers]'"
    if _program().is_file():
        return ""
    uv = [sys.executable, "-m", "uv"]
    HOME.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        [*uv, "venv", "-q", "--clear", "--python", sys.executable, str(HOME)],
        [*uv, "pip", "install", "-q", "--python", str(HOME / "bin/python"), f"moto[server,s3]=={VERSION}"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"moto cannot be installed: {done.stderr.strip()[-200:]}"
    return ""


def _program() -> Path:
    return HOME / "bin" / "moto_server"


def start_s3_server() -> S3Server:
    """Starts a server on a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [_program(), "-H", "127.0.0.1", "-p", str(port)],
        env={"PATH": os.environ["PATH"], **KEYS}, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    server = S3Server(f"http://127.0.0.1:{port}", process)
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.url}/moto-api/", timeout=5):
                return server
        except OSError:
            time.sleep(0.2)
    server.stop()
    raise RuntimeError("the S3 server did not start")
