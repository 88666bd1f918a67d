"""kill -9 while the champion changes: it is the old or the new one, and the next register says which."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import model_project as made
import pytest
from mlflow_store import forget_stores
from registered import BETTER, aliases, decision_file, run_register

from flows import audit, decision, tracking_registry
from flows.audit import check_chain, load_audit
from flows.decision import load_decision
from flows.hand import roll_back_champion

TRACED = (
    "flows/hand.py", "flows/succession.py", "flows/decision.py", "flows/audit.py", "flows/model_files.py",
    "flows/tracking_registry.py", "flows/register.py", "flows/archive.py",
    "mlflow/store/model_registry/sqlalchemy_store.py",
)  # fmt: skip
STEPS = 12
Trace = Callable[[FrameType, str, Any], Any]


def in_child(act: Callable[[], object]) -> int:
    """Exit status of a process that does it; a fork, as the imports take seconds."""
    forget_stores()  # a database must not be open in two processes
    child = os.fork()
    if not child:
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_self(*arguments: object, **named: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def act_traced(act: Callable[[], object], stop: int) -> None:
    """Does it until that many lines of the traced files have run, then kill -9; else notes how many there are."""
    count = 0

    def line(frame: FrameType, event: str, argument: Any) -> Trace:
        nonlocal count
        count += event == "line"
        if count == stop:
            kill_self()
        return line

    def call(frame: FrameType, event: str, argument: Any) -> Trace | None:
        return line if frame.f_code.co_filename.endswith(TRACED) else None

    sys.settrace(call)
    act()
    sys.settrace(None)
    Path("lines").write_text(str(count))


def check_after_kill(old: str, new: str, messages: list[str]) -> str:
    """What must hold after a kill, and after the next register; gives the champion that the kill left."""
    left, alias = load_decision("phantom")["champion_after"], aliases()["champion"]
    assert left in (old, new)
    assert alias in (old, left)  # the alias moves last
    assert check_chain().problems == []
    missing = not decision.is_audited(load_decision("phantom"))
    messages.clear()
    _, numbers = run_register()
    text = "\n".join(messages)
    assert ("the audit log did not hold the decision" in text) == missing
    if missing:
        assert f"The champion is {left[:12]}: " in text
    if alias != left:
        assert (
            f"MLflow: phantom@champion moved from version {numbers[alias]} to version {numbers[left]}" in text
        )
    return left


@pytest.mark.parametrize(
    ("module", "step", "moved"),
    [
        (decision, "save_json", False), (decision, "append_audit", True), (audit, "_write", True),
        (audit, "_write_head", True), (tracking_registry, "_set_aliases", True), (None, "", True),
    ],
)  # fmt: skip
def test_a_rollback_killed_at_each_step(
    three: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch, messages: list[str],
    module: Any, step: str, moved: bool,
) -> None:  # fmt: skip
    first, second, _ = three
    with monkeypatch.context() as patch:
        if module is not None:
            patch.setattr(module, step, kill_self)
        status = in_child(lambda: roll_back_champion(None, "x"))
    assert status == (0 if module is None else -signal.SIGKILL)
    left = check_after_kill(second, first, messages)
    assert left == (first if moved else second)
    assert aliases()["champion"] == left == decision_file()["champion_after"]
    done = [line for line in load_audit() if line["by"] == "person"]
    assert len(done) == int(moved)  # once, whether it was written at once or later


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["person", "gate"])
def test_killed_at_any_instruction(
    three: tuple[str, str, str],
    project: Path,
    tmp_path_factory: pytest.TempPathFactory,
    messages: list[str],
    kind: str,
) -> None:
    """Every few lines of all that moves the champion, MLflow's registry included."""
    first, second, third = three
    if kind == "person":
        act: Callable[[], object] = lambda: roll_back_champion(None, "x")  # noqa: E731
        after = first
    else:
        after = made.train("unet", "four", minute=4)
        made.evaluate("unet", [value + 0.04 for value in BETTER])
        act = run_register
    forget_stores()
    before = tmp_path_factory.mktemp("before") / "project"
    shutil.copytree(project, before, symlinks=True)
    assert in_child(lambda: act_traced(act, -1)) == 0
    lines = int(Path("lines").read_text())
    assert lines > 300
    seen = []
    for stop in range(1, lines, lines // STEPS):
        forget_stores()
        for name in ("data", ".segtrail"):
            shutil.rmtree(project / name)
            shutil.copytree(before / name, project / name)
        assert in_child(lambda stop=stop: act_traced(act, stop)) == -signal.SIGKILL
        seen.append(check_after_kill(second, after, messages))
        agreed = seen[-1] if kind == "person" else after  # the gate decides again, and the same
        assert aliases()["champion"] == decision_file()["champion_after"] == agreed
        assert check_chain().problems == []
    assert seen == sorted(seen, key=[second, after].index)  # there is one moment at which it moves
    assert set(seen) == {second, after}
