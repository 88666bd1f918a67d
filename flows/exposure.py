"""Servers that others can reach: under which names, and what a user must be told before."""

from __future__ import annotations

import ipaddress
import socket

import psutil

LOCAL = "127.0.0.1"


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server that listens on an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reachable_names(host: str, told: str = "") -> list[str]:
    """Names and addresses by which browsers may ask for a server.

    Args:
        host: Address it listens on; "0.0.0.0" for all.
        told: Names separated by commas; "" for those that this machine knows of itself.
    """
    if told:
        return [name.strip() for name in told.split(",") if name.strip()]
    if host != "0.0.0.0":
        return [host]
    found = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries
             if entry.family == socket.AF_INET and not is_local(entry.address)]  # fmt: skip
    return [socket.gethostname(), *sorted(found)]


def describe_exposure(host: str, names: list[str]) -> list[str]:
    """Lines of warning."""
    return [
        f"warning: the servers listen on {host}: whoever reaches this machine ({', '.join(names)})",
        "  can read, change and delete every run and model, and start flows. Neither asks for a password unless",
        "  told to, and nothing is encrypted: docs/how-to/servers.md. `ssh -L` needs neither.",
    ]


def mlflow_options(names: list[str], port: int) -> list[str]:
    """Options by which MLflow answers to other names than localhost; it refuses them otherwise."""
    hosts = [f"{name}{end}" for name in ["localhost", LOCAL, *names] for end in ("", ":*")]
    origins = [f"http://{name}:{port}" for name in names]
    return ["--allowed-hosts", ",".join(hosts), "--cors-allowed-origins", ",".join(origins)]
