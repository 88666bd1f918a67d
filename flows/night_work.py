"""What a night does between its lock and its report, step by step; the first step that fails ends it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from flows.decision import load_decision
from flows.night_changes import Changes, find_changes, hold_project, shorten
from flows.night_outcome import audit_forgotten_nights, count_cases, judge, list_case_ids, select_decided
from flows.night_repro import run_stages
from flows.night_sweep import sweep
from flows.nights import SKIPPED, Night, Record, Step, load_nights
from flows.provenance import data_digest, git_commit
from pipeline.config import Params
from pipeline.errors import SegtrailError

LOGGER = logging.getLogger("segtrail")
PARAMS = Path("params.yaml")
PROJECT_REPORT = Path("data/report/index.html")


class NightWork:
    """The work of one night.

    Args:
        night: Its record.
        params: All params.
        tell: Writes audit entry, report and messages of a killed night that is found.
    """

    def __init__(self, night: Night, params: Params, tell: Callable[[Night], None]) -> None:
        self._night, self._params, self._tell = night, params, tell
        self._name, self._dataset = params.register_.model_name, params.inspect.dataset
        self._before = load_decision(self._name)
        self._cases = list_case_ids()
        self._ran = False
        night.record |= {
            "champion": self._before.get("champion_after"),
            "data_digest_before": data_digest(self._dataset),
            "params_sha256": hashlib.sha256(PARAMS.read_bytes()).hexdigest(),
            "git_commit": git_commit(),
        }
        night.save()

    def run(self) -> None:
        """Runs all steps; raises OtherRunError when somebody else works here, else SegtrailError of a step."""
        try:
            self._sweep()
            self._pull()  # first: what somebody else has added to the data set may be what arrives here, too
            self._take_in()
            changes = self._find_changes()
            if changes:
                self._compute(changes)
            else:
                self._compare_mlflow(changes)
            self._commit()
            self._push()
        finally:
            self._note_end()

    def _note_end(self) -> None:
        self._night.record["data_digest_after"] = data_digest(self._dataset)
        self._night.record["cases"] = count_cases(self._cases)
        if PROJECT_REPORT.is_file():
            self._night.record["project_report"] = PROJECT_REPORT.as_posix()
        self._night.save()

    def _sweep(self) -> None:
        with self._night.step("sweep") as step:
            killed, said = sweep(self._name)
            for night in killed:
                self._tell(night)
            if late := audit_forgotten_nights():
                said.append(f"{late} audit entries of earlier nights were missing and have been made up for")
            _tell(step, said, "no earlier night has left anything")

    def _pull(self) -> None:
        with self._night.step("pull") as step:
            if not self._params.nightly.pull:
                step.nothing("nightly.pull is false")
                return
            from flows.remote import pull_dataset

            with hold_project("segtrail night"):
                step.say(pull_dataset(self._dataset, self._params.nightly.remote))

    def _take_in(self) -> None:
        nightly = self._params.nightly
        with self._night.step("take_in") as step:
            if not nightly.incoming:
                step.nothing("nightly.incoming names no folder")
                return
            from flows.incoming import take_in
            from flows.privacy import conceal

            with hold_project("segtrail night"):
                try:
                    intake = take_in(self._dataset, Path(nightly.incoming), nightly.settle_seconds)
                except SegtrailError as error:  # it may name a lot
                    raise SegtrailError(*conceal([error.what, error.where, error.fix])) from None
            self._night.record["intake"] = found = conceal(intake.to_record())
            parts = [
                f"{len(found[key])} {key} ({shorten([lot['name'] for lot in found[key]])})"
                for key in ("taken", "waiting", "refused")
                if found[key]
            ]
            _tell(step, parts, f"{nightly.incoming} holds nothing new")

    def _find_changes(self) -> Changes:
        with self._night.step("changes") as step:
            changes = find_changes()
            step.say(str(changes))
            return changes

    def _compare_mlflow(self, changes: Changes) -> None:
        """A night without changes; a store that was deleted or differs is rebuilt from the files."""
        with self._night.step("compare") as step:
            from flows.tracking_check import find_difference

            difference = find_difference()
            step.say(difference or "MLflow agrees with the files")
        if difference:
            self._run_stages("register")
            self._decide(f"nothing changed, but {difference}: rebuilt from the files; ")
        else:
            self._night.end(SKIPPED, f"nothing changed: {changes}")

    def _compute(self, changes: Changes) -> None:
        if any(
            name == "inspect" or name.startswith("phantom") or name.endswith(".dvc")
            for name in changes.stages
        ):
            self._run_stages("inspect")
        self._check_drift()
        if reason := self._tell_untrained(changes):
            self._night.end(SKIPPED, reason)
            return
        self._run_stages()
        self._decide()

    def _check_drift(self) -> None:
        """Without `nightly.retrain: drift` it is only told of, and a failure keeps no model from being trained."""
        with self._night.step("drift") as step:
            if not self._before.get("champion_after"):
                step.nothing("there is no champion yet")
                return
            from flows.drift import check_drift

            try:
                found = check_drift(self._night.folder, (list_case_ids() - self._cases) or None)
            except SegtrailError as error:
                if self._params.nightly.retrain == "drift":
                    raise
                step.fail(f"{error.what} ({error.where}); {error.fix}")
                return
            self._night.record["drift"] = found
            if found is None:
                step.nothing("the champion knows all cases")
            else:
                step.say(found["sentence"])

    def _tell_untrained(self, changes: Changes) -> str:
        """Why nothing is trained although something changed; "" when it is."""
        if self._params.nightly.retrain != "drift" or changes.rest or not self._before.get("champion_after"):
            return ""
        drift = self._night.record["drift"]
        if drift is not None and drift["drifted"]:
            return ""
        why = drift["sentence"] if drift else "no case is new to the champion"
        return f"not retrained, as nightly.retrain is drift and neither code nor params changed: {why}"

    def _run_stages(self, *stages: str) -> None:
        self._ran = True
        with self._night.step(stages[0] if stages else "repro") as step:
            done = run_stages(self._night.folder, stages)
            step.say(f"executed: {shorten(done.stages) or 'nothing'}. {done.total}")

    def _decide(self, before: str = "") -> None:
        with self._night.step("decision") as step:
            from flows.tracking_registry import find_numbers

            decision = load_decision(self._name)
            _, numbers = find_numbers(self._name)
            self._night.record |= {"decision": select_decided(decision), "version_numbers": numbers}
            state, reason = judge(self._before, decision, numbers)
            step.say(f"{state}: {reason}")
        self._night.end(state, f"{before}{reason}")

    def _commit(self) -> None:
        branch = self._params.nightly.branch
        with self._night.step("commit") as step:
            if not branch:
                step.nothing("nightly.branch names no branch")
                return
            from flows.state_commit import commit_state

            record = self._night.record
            commit = commit_state(
                branch, f"Night {record['night_id']}: {record['state']}\n\n{record['reason']}"
            )
            if commit:
                record["commit"] = {"branch": branch, "commit": commit}
                step.say(f"{commit[:12]} on {branch}")
            else:
                step.nothing(f"{branch} holds this state already")

    def _push(self) -> None:
        with self._night.step("push") as step:
            if not self._params.nightly.push:
                step.nothing("nightly.push is false")
            elif not self._ran and not _push_is_due(self._night):
                step.nothing("nothing has run since the last push")
            else:
                self._push_now(step)

    def _push_now(self, step: Step) -> None:
        from flows.remote import push_all

        result = push_all(self._params.nightly.remote, commits=unpushed_commits(self._night))
        self._night.record["push"] = asdict(result)
        if not result.pushed:
            raise push_error(result.remote, result.error)
        tries = f" ({result.attempts} tries)" if result.attempts > 1 else ""
        step.say("; ".join([f"all of now is in {result.remote}{tries}", *result.left]))


def push_error(remote: str, error: str) -> SegtrailError:
    """What a night says of a push that failed.

    Args:
        remote: Its name; "" when none could be chosen, which no waiting mends.
        error: What `push_all` found, with where and fix.
    """
    what, *rest = error.splitlines()
    if not remote and len(rest) == 2:
        where, fix = (line.partition(":")[2].strip() for line in rest)
        return SegtrailError(what, where, fix)
    return SegtrailError(what, f"DVC remote {remote}", "segtrail data push; or wait: the next night pushes")


def unpushed_commits(night: Night) -> list[str]:
    """Commits of nights whose push failed since the last one that went well, oldest first.

    Later versions do not hold all of their data. Only those count that came as far as the remote: the look for names of
    patients has passed them.
    """
    found: list[str] = []
    for record in _earlier_nights(night):
        if record["push"] is None:
            continue
        if record["push"]["pushed"]:
            break
        if record["commit"] is not None:
            found.insert(0, record["commit"]["commit"])
    return found


def _earlier_nights(night: Night) -> list[Record]:
    """The last one first."""
    return [record for record in load_nights()[::-1] if record["night_id"] != night.record["night_id"]]


def _push_is_due(night: Night) -> bool:
    """Whether the last night that had something to push did not come to it, or failed at it."""
    for record in _earlier_nights(night):
        if record["push"] is not None:
            return not record["push"]["pushed"]
        if any(step["name"] in ("inspect", "register", "repro") for step in record["steps"]):
            return True
    return True


def _tell(step: Step, parts: list[str], nothing: str) -> None:
    if parts:
        step.say("; ".join(parts))
    else:
        step.nothing(nothing)
