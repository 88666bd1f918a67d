"""Who reaches the servers, and under which names."""

from __future__ import annotations

import socket

import pytest

from flows.exposure import describe_exposure, is_local, mlflow_options, reachable_names


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.0.0.53", True), ("localhost", True), ("::1", True), ("0.0.0.0", False),
     ("10.1.2.3", False), ("::", False), ("lab.example.org", False)],
)  # fmt: skip
def test_what_only_this_machine_reaches(host: str, local: bool) -> None:
    assert is_local(host) is local


def test_names() -> None:
    assert reachable_names("0.0.0.0", " a.example.org,,b ") == ["a.example.org", "b"]
    assert reachable_names("10.1.2.3") == ["10.1.2.3"]
    own = reachable_names("0.0.0.0")
    assert own[0] == socket.gethostname()
    assert not [name for name in own[1:] if is_local(name)]


def test_mlflow_is_told_names_with_and_without_port() -> None:
    assert mlflow_options(["lab"], 5001) == [
        "--allowed-hosts", "localhost,localhost:*,127.0.0.1,127.0.0.1:*,lab,lab:*",
        "--cors-allowed-origins", "http://lab:5001",
    ]  # fmt: skip


def test_the_warning_says_who_and_what() -> None:
    text = "\n".join(describe_exposure("0.0.0.0", ["lab", "10.1.2.3"]))
    assert text.startswith("warning: ")
    assert "(lab, 10.1.2.3)" in text
    assert "delete" in text
