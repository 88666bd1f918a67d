"""nnU-Net v2 as the peer of a benchmark: its environment, its folders, its commands.

The environment is built once from the package index below `.segtrail/benchmarks/nnunet`, with the torch that
Segtrail runs on, so that both use the same kernels.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

VERSION = "2.8.1"
HOME = Path(".segtrail/benchmarks/nnunet")


def peer_python(home: Path = HOME) -> Path:
    """Python of nnU-Net's environment, built when it is missing.

    Args:
        home: Folder of the environment.
    """
    python = (home / "env/bin/python").absolute()
    ready = home / f"nnunetv2-{VERSION}-torch-{version('torch')}"
    if not ready.exists():
        sys.stderr.write(f"building the environment of nnU-Net {VERSION} in {home}\n")
        uv = [sys.executable, "-m", "uv"]
        home.mkdir(parents=True, exist_ok=True)
        created = [*uv, "venv", "-q", "--clear", "--python", sys.executable, str(home / "env")]
        wanted = [
            f"nnunetv2=={VERSION}",
            f"torch=={version('torch')}",
            f"torchvision=={version('torchvision')}",
        ]
        subprocess.run(created, check=True)
        subprocess.run([*uv, "pip", "install", "-q", "--python", str(python), *wanted], check=True)
        ready.touch()
    return python


def peer_environment(folder: Path) -> dict[str, str]:
    """Variables under which nnU-Net keeps its data below a folder; made when missing."""
    names = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    paths = {name: (folder / part).absolute() for name, part in names.items()}
    for path in paths.values():
        path.mkdir(parents=True, exist_ok=True)
    return {**os.environ, **{name: str(path) for name, path in paths.items()}, "nnUNet_compile": "f"}


def run_peer(code: str, environment: Mapping[str, str], *arguments: str) -> str:
    """Runs a Python text in nnU-Net's environment.

    Returns:
        What it printed.
    """
    command = [str(peer_python()), "-c", code, *arguments]
    done = subprocess.run(command, env=dict(environment), stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout
