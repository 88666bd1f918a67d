"""What must be so at the end of a month, whatever was done to its nights; and its table."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from month_project import BRANCH, DATASET, NAME, load_hook
from month_schedule import Month
from project_copy import environment, load_json, run

from flows.archive import SHORT
from flows.audit import AUDIT, check_chain, load_audit
from flows.locks import find_holder, is_alive
from flows.prefect_api import ask

Record = dict[str, Any]
LOCKS = (
    ".segtrail/night.lock",
    ".segtrail/repro.lock",
    ".segtrail/schedule/serving.lock",
    ".segtrail/rescoring.lock",
)
HEAD = (
    "night",
    "what was done",
    "how",
    "state",
    "min",
    "champion",
    "test Dice",
    "challenger",
    "drift",
    "messages",
)


def check_runs(month: Month) -> None:
    """No Prefect run of the month is at work or waits; while the server still answers."""
    state = {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING", "SCHEDULED", "PAUSED"]}}
    left = ask(month.url, "flow_runs/filter", {"flow_runs": {"state": state}})
    assert [(run["name"], run["state_name"], run["expected_start_time"]) for run in left] == []
    nights = month.records()
    for record in nights:
        run = ask(month.url, f"flow_runs/{record['prefect_run_id']}")
        wanted = {"failed": ("FAILED", "CRASHED"), "killed": ("CRASHED",)}.get(
            record["state"], ("COMPLETED",)
        )
        assert run["state_type"] in wanted, (record["night_id"], record["state"], run["state"])
        if record["state"] not in ("failed", "killed"):
            assert run["state"]["message"] == record["reason"]


def check_nights(month: Month) -> None:
    """Every night has a record that ended, a report, one audit entry and one message."""
    chain = check_chain(month.folder / AUDIT)
    assert (chain.problems, chain.remarks) == ([], [])
    entries = [line for line in load_audit(month.folder / AUDIT) if "night" in line["what"]]
    told = [night["night_id"] for night in load_hook(month.hook)]
    records = month.records()
    assert sorted(line["what"]["night"] for line in entries) == sorted(
        record["night_id"] for record in records
    )
    by_night = {line["what"]["night"]: line for line in entries}
    for record in records:
        night = record["night_id"]
        assert record["state"] != "running", night
        assert by_night[night]["what"]["state"] == record["state"], night
        assert by_night[night]["why"] == [record["reason"]], night
        assert record["reason"], night
        assert (month.folder / ".segtrail/nights" / night / record["report"]).is_file(), night
        assert told.count(night) == 1, (night, told.count(night))


def check_locks(month: Month) -> None:
    """Nobody holds a lock or works here any more; once the schedule is no longer served."""
    for lock in LOCKS:
        assert find_holder(month.folder / lock) is None, lock
    rwlock = (
        month.folder / ".dvc/tmp/rwlock"
    )  # it names processes that were killed, too: DVC passes over those
    named = re.findall(r'"pid": (\d+)', rwlock.read_text()) if rwlock.is_file() else []
    assert [pid for pid in named if is_alive(int(pid))] == []
    assert not list((month.folder / ".git").rglob("*.lock"))
    assert [process.cmdline() for process in month.processes()] == []


def check_lineage(month: Month) -> list[Record]:
    """Each version leads back to data that a commit names and the remote holds."""
    committed = set(
        re.findall(r"md5: (\w+\.dir)", month.git("log", "-m", "-p", BRANCH, "--", f"data/raw/{DATASET}.dvc"))
    )
    found = []
    for number in range(1, len(versions(month)) + 1):
        done = run(month.folder, "flows.cli", "lineage", f"{NAME}@{number}", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        record = json.loads(done.stdout)
        digest = record["data"]["md5"]
        digest = digest if digest.endswith(".dir") else f"{digest}.dir"
        assert digest in committed, (number, digest, committed)
        assert (month.remote / "files/md5" / digest[:2] / digest[2:]).is_file(), (number, digest)
        found.append(record)
    assert len({record["bundle_sha256"] for record in found}) == len(found) > 0
    return found


def versions(month: Month) -> list[Path]:
    """Archived versions."""
    return [path.parent for path in (month.folder / f"data/registry/versions/{NAME}").glob("*/version.json")]


def archived(month: Month, sha256: str) -> Path:
    """Folder of a version."""
    return month.folder / f"data/registry/versions/{NAME}" / sha256[:SHORT]


def check_champion(month: Month, first: str) -> tuple[float, float]:
    """The last champion is no worse than the first on the test cases of now; the mean Dice of both.

    Scored apart from the pipeline: predicted by `segtrail predict`, compared voxel by voxel here.
    """
    last = month.champion()
    cases = read_side(month.folder / "data/splits/splits.csv", "test")
    frozen = read_side(archived(month, first) / "splits.csv", "test")
    assert set(frozen) <= set(cases)
    scores = {sha256: score(month, sha256, cases) for sha256 in {first, last}}
    for chosen in (cases, frozen):
        assert mean(scores[last], chosen) >= mean(scores[first], chosen) - 1e-9, (first, last)
    return mean(scores[first], cases), mean(scores[last], cases)


def mean(scores: dict[str, float], cases: Sequence[str]) -> float:
    return float(np.mean([scores[case] for case in cases]))


def read_side(path: Path, side: str) -> list[str]:
    rows = [line.split(",") for line in path.read_text().splitlines()]
    head = rows[0]
    return sorted(row[head.index("case_id")] for row in rows[1:] if row[head.index("split")] == side)


def score(month: Month, sha256: str, cases: Sequence[str]) -> dict[str, float]:
    """Dice of each case, the mean over both classes."""
    output = month.folder.parent / "predicted" / sha256[:12]
    images = [str(month.raw / "imagesTr" / f"{case}.nii.gz") for case in cases]
    month.segtrail("predict", *images, "-o", str(output), "--model", f"{NAME}@{sha256}")
    found = {}
    for case in cases:
        truth = np.asarray(nibabel.load(month.raw / "labelsTr" / f"{case}.nii.gz").dataobj)
        guess = np.asarray(nibabel.load(output / f"{case}_labels.nii.gz").dataobj)
        dice = [
            2
            * ((truth == value) & (guess == value)).sum()
            / ((truth == value).sum() + (guess == value).sum())
            for value in (1, 2)
        ]
        found[case] = float(np.mean(dice))
    return found


def check_remote(month: Month) -> None:
    """A clone and the remote alone give the champion: its prediction is that of the project, voxel by voxel."""
    clone = month.folder.parent / "clone"
    subprocess.run(["git", "clone", "-q", "-b", BRANCH, str(month.folder), str(clone)], check=True)
    pulled = run(clone, "dvc", "pull")
    assert pulled.returncode == 0, pulled.stdout + pulled.stderr
    image = next((clone / f"data/raw/{DATASET}/imagesTr").glob("*.nii.gz"))
    words = ("-m", "flows.cli", "predict", str(image), "--model", f"{NAME}@champion", "-o")
    outputs = []
    for place in (clone, month.folder):
        output = month.folder.parent / f"from_{place.name}"
        done = subprocess.run(
            [sys.executable, *words, str(output)],
            cwd=place, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        (labels,) = output.glob("*_labels.nii.gz")
        outputs.append(np.asarray(nibabel.load(labels).dataobj))
    assert np.array_equal(*outputs)
    shutil.rmtree(clone)


def table(month: Month, played: Sequence[tuple[str, Sequence[str]]]) -> str:
    """One line a night.

    Args:
        month: Whose nights.
        played: What was done, and the ids of the nights.
    """
    told = [night["night_id"] for night in load_hook(month.hook)]
    rows = [list(HEAD)]
    numbers = {
        sha256: number for record in month.records() for sha256, number in record["version_numbers"].items()
    }
    for title, ids in played:
        for night in ids:
            record = month.load(night)
            rows.append([str(len(rows)), title, *_cells(month, record, numbers), str(told.count(night))])
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _cells(month: Month, record: Record, numbers: dict[str, str]) -> list[str]:
    decision, drift = record["decision"] or {}, record["drift"]
    champion = decision.get("champion_after") or record["champion"] or ""
    name = f"v{numbers[champion]}" if champion in numbers else champion[:8]
    about = "" if drift is None else "yes" if drift["drifted"] else "no" if drift["features"] else "too few"
    minutes = "" if record["seconds"] is None else f"{record['seconds'] / 60:.1f}"
    found = (decision.get("numbers") or {}).get("improvement")
    gain = "" if found is None else f"{found:+.3f}"
    return [record["trigger"], record["state"], minutes, name, _metric(month, champion), gain, about]


def _metric(month: Month, champion: str) -> str:
    """Of the champion after the night, on the test cases it was made with."""
    path = archived(month, champion) / "metrics/metrics.json"
    if not champion or not path.is_file():
        return ""
    metrics = load_json(path)["metrics"]
    return f"{metrics['test/dice']:.3f} (n={metrics['test/dice_n']:.0f})"
