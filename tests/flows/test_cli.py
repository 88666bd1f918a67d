"""The command line: quick help, arguments that reach their function, one clear error, exit codes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import acceptance, cli, data, doctor, drafts, predict, repro, ui
from pipeline.errors import SegtrailError

A, OUT = Path("a"), Path("out")
ADDED: dict[str, Any] = {"also": [], "keep_identity": False}
HEAVY = {"prefect", "mlflow", "torch", "monai", "dvc", "pytorch_lightning", "numpy", "pandas"}


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "flows.cli", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 0.5  # seconds of CPU: other work on the machine does not count
    code = "import flows.cli, json, sys; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert set(json.loads(run.stdout)) & HEAVY == set()


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the functions behind the commands were called with."""
    calls: dict[str, Any] = {}

    def record(name: str, result: Any = None) -> Callable[..., Any]:
        def function(*arguments: Any, **named: Any) -> Any:
            calls[name] = (arguments, named)
            return result

        return function

    monkeypatch.setattr(repro, "run_repro", record("repro", 255))
    monkeypatch.setattr(data, "add_data", record("data"))
    monkeypatch.setattr(data, "check_arguments", lambda raw, preset, also: None)
    monkeypatch.setattr(drafts, "draft_cases", record("draft", 1))
    monkeypatch.setattr(acceptance, "accept_drafts", record("accept", 3))
    monkeypatch.setattr(predict, "predict_inputs", record("predict", 1))
    monkeypatch.setattr(ui, "run_ui", record("ui", 0))
    monkeypatch.setattr(doctor, "run_doctor", record("doctor", 0))
    monkeypatch.delenv("SEGTRAIL_DEVICES", raising=False)
    return calls


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("line", "name", "arguments", "named", "code"),
    [
        ("repro", "repro", ([], "auto"), {"wait": True, "minutes": None}, 255),
        ("repro --no-wait --devices 0,1 -f x", "repro", (["-f", "x"], "0,1"), {"wait": False, "minutes": None}, 255),
        ("repro --minutes 45", "repro", ([], "auto"), {"wait": True, "minutes": 45.0}, 255),
        ("repro --no-commit", "repro", (["--no-commit"], "auto"), {"wait": True, "minutes": None}, 255),
        ("data add raw --preset hippocampus", "data", (Path("raw"), "hippocampus"), ADDED, 0),
        ("data add --preset phantom --also a", "data", (None, "phantom"), ADDED | {"also": [A]}, 0),
        ("data draft -o out", "draft", ([], OUT, "phantom@champion", "auto"), {}, 1),
        ("data draft a b -o out --model x@2 --devices cpu", "draft", (["a", "b"], OUT, "x@2", "cpu"), {}, 1),
        ("data accept a", "accept", (A, "", False), {}, 0),
        ("data accept a --by me --unchanged", "accept", (A, "me", True), {}, 0),
        ("predict a b -o out", "predict", ([A, Path("b")], OUT, "phantom@champion", "auto", False), {}, 1),
        ("predict a -o out --model x@2 --devices cpu --dicom-seg", "predict", ([A], OUT, "x@2", "cpu", True), {}, 1),
        ("ui --mlflow-port 5001", "ui", (5001, 4200, "127.0.0.1", ""), {}, 0),
        ("doctor --fix", "doctor", (True,), {}, 0),
    ],
)  # fmt: skip
def test_arguments_and_exit_codes(
    line: str, name: str, arguments: tuple[Any, ...], named: dict[str, Any], code: int, called: dict[str, Any]
) -> None:
    assert cli.main(line.split()) == code
    assert called == {name: (arguments, named)}


@pytest.mark.usefixtures("project", "called")
@pytest.mark.parametrize(
    "line", ["doctor --hard", "ui x", "nonsense", "", "data", "data add x", "data draft", "predict a"]
)
def test_a_wrong_command_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split())
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: segtrail")


def test_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err == (
        "segtrail: error: there is no params.yaml in this folder\n"
        f"  where: {tmp_path}\n  fix:   change to the project's top folder\n"
    )


@pytest.mark.usefixtures("project")
def test_an_error_is_printed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise SegtrailError("it is broken", "here", "mend it")

    monkeypatch.setattr(doctor, "run_doctor", fail)
    assert cli.main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "segtrail: error: it is broken\n  where: here\n  fix:   mend it\n"
    assert captured.out == ""


@pytest.mark.usefixtures("project")
def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run_doctor", interrupt)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "\nsegtrail: interrupted\n"
