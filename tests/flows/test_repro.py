"""`segtrail repro`: what it shows, its exit codes, two at once, and nothing left behind when it is killed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_project import SmallProject, wait_until

from flows.locks import is_alive
from flows.repro import Console
from flows.summary import summarise
from pipeline.config import load_params


def shown(*lines: str) -> str:
    out: list[str] = []
    console = Console(out.append)
    for line in lines:
        console.line(line + "\n")
    return "".join(out)


def test_dvc_chatter_is_hidden_and_stage_output_passes() -> None:
    text = shown(
        "Running stage 'train@unet':",
        "> python -m flows.train unet",
        "  epoch 1: loss 0.5 (ETA 10 s)",
        "Updating lock file 'dvc.lock'",
        "",
        "",
        "To track the changes with git, run:",
        "",
        "\tgit add dvc.lock",
        "",
        "To enable auto staging, run:",
        "",
        "\tdvc config core.autostage true",
        "Use `dvc push` to send your updates to remote storage.",
    )
    assert text == "train@unet\n  epoch 1: loss 0.5 (ETA 10 s)\n\n"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("Stage 'inspect' didn't change, skipping", "inspect: unchanged\n"),
        ("'data/raw/x.dvc' didn't change, skipping", "data/raw/x.dvc: unchanged\n"),
        (
            "Stage 'split' is cached - skipping run, checking out outputs",
            "split: restored from the cache of earlier runs\n",
        ),
        (
            "ERROR: failed to reproduce 'plan': failed to run: python -m flows.plan, exited with 1",
            "\nsegtrail: stage plan failed (exit code 1); see above\n",
        ),
        (
            "ERROR: failed to reproduce 'train@unet': failed to run: python -m flows.train unet, exited with 137",
            "\nsegtrail: stage train@unet failed (ended by SIGKILL); see above\n",
        ),
        (
            "ERROR: failed to reproduce 'plan': failed to run: x, exited with -15",
            "\nsegtrail: stage plan failed (ended by SIGTERM); see above\n",
        ),
        ("ERROR: 'dvc.yaml' is invalid.", "ERROR: 'dvc.yaml' is invalid.\n"),
        ("segtrail: error: bad\n  where: here", "segtrail: error: bad\n  where: here\n"),
    ],
)
def test_what_becomes_of_a_line(line: str, text: str) -> None:
    assert shown(line) == text


def test_seconds_of_a_stage_end_with_its_lock_file_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.5, 20.0, 21.0])
    monkeypatch.setattr("flows.repro.time.monotonic", lambda: next(clock))
    console = Console(lambda text: None)
    console.line("Running stage 'a':\n")
    console.line("Updating lock file 'dvc.lock'\n")
    console.line("Running stage 'b':\n")
    console.end_stage()
    assert console.seconds == {"a": 2.5, "b": 1.0}


def test_a_run_a_rerun_and_a_failure(small: SmallProject) -> None:
    first = small.run("repro", "--devices", "cpu")
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.startswith(f"first\n> python work.py first\n  devices cpu, python {sys.executable}\n")
    assert "Use `dvc push`" not in first.stdout
    assert "in all (first " in first.stdout
    assert "make ui" in first.stdout

    again = small.run("repro")
    assert again.stdout.startswith("first: unchanged\nsecond: unchanged\n")
    assert "(no stage executed)" in again.stdout

    small.write_input("bad second")
    failed = small.run("repro")
    assert failed.returncode == 255  # DVC's
    assert failed.stdout.rstrip().endswith(
        "segtrail: error: the input is bad\n  where: input\n  fix:   write another\n\n"
        "segtrail: stage second failed (exit code 1); see above"
    )
    assert (small.folder / ".segtrail/repro.lock").read_text() == ""


def test_arguments_go_to_dvc(small: SmallProject) -> None:
    run = small.run("repro", "first", "--dry")
    assert run.returncode == 0
    assert "second" not in run.stdout
    assert not (small.folder / "out").exists()
    assert small.run("repro", "--no-such-option").returncode == 254  # DVC's for a wrong command line


def test_minutes_are_written_into_the_params_of_the_models_in_use(small: SmallProject) -> None:
    path = small.folder / "params.yaml"
    path.write_text(path.read_text().replace("models: [unet, maskrcnn]", "models: [unet]"))
    comments = [line for line in path.read_text().splitlines() if "max_minutes" not in line]
    run = small.run("repro", "first", "--dry", "--minutes", "12.5")
    assert run.returncode == 0, run.stderr
    assert "segtrail: params.yaml: train.unet.max_minutes: 4.5 -> 12.5" in run.stdout
    params = load_params(path)
    assert params.train.of("unet").max_minutes == 12.5
    assert params.train.of("maskrcnn").max_minutes == 5.0
    assert [line for line in path.read_text().splitlines() if "max_minutes" not in line] == comments
    wrong = small.run("repro", "--dry", "--minutes", "0")
    assert wrong.returncode == 1
    assert "train.unet.max_minutes = 0.0" in wrong.stderr
    assert load_params(path).train.of("unet").max_minutes == 12.5


def test_two_at_once_one_leaves_and_one_waits(small: SmallProject) -> None:
    small.hold()
    one = small.start(["repro"])
    small.stage_pid()
    leaves = small.run("repro", "--no-wait")
    assert leaves.returncode == 75
    assert f"the lock is held by process {one.pid} (segtrail repro) since 20" in leaves.stderr
    waits = small.start(["repro"])
    assert waits.stdout is not None
    line = waits.stdout.readline()
    assert line.startswith(f"segtrail: waiting for process {one.pid} (segtrail repro) since 20")
    small.release()
    assert one.wait(60) == 0
    rest, error = waits.communicate(timeout=60)
    assert (waits.returncode, error) == (0, "")
    assert rest.startswith("first: unchanged\nsecond: unchanged\n")
    assert small.read("out/second") == "one"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_ends_its_stage_and_can_be_taken_up(
    small: SmallProject, number: signal.Signals
) -> None:
    small.hold()
    run = small.start(["repro"])
    stage = small.stage_pid()
    run.send_signal(number)
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "interrupted; the next `make repro` continues" in out
    assert not is_alive(stage)
    small.release()
    assert small.run("repro").returncode == 0
    assert small.read("out/second") == "one"


def test_kill_9_of_the_command_ends_its_stage_too(small: SmallProject) -> None:
    small.hold()
    run = small.start(["repro"])
    stage = small.stage_pid()
    run.kill()
    run.communicate()
    wait_until(lambda: not is_alive(stage), 30)
    small.release()
    last = small.run("repro")  # waits until the killed one's DVC has ended, which held the lock
    assert last.returncode == 0, last.stdout + last.stderr
    assert small.read("out/second") == "one"


@pytest.mark.slow
def test_a_downloaded_archive_without_git(tmp_path: Path) -> None:
    project = SmallProject(tmp_path)
    project.create(with_git=False)
    run = project.run("repro")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith("segtrail: no Git here")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert "no Git" not in project.run("repro", "--dry").stdout
    assert "no_scm" not in project.read(".dvc/config.local")


def test_a_folder_that_is_no_project(tmp_path: Path) -> None:
    project = SmallProject(tmp_path)
    (tmp_path / "params.yaml").touch()
    run = project.run("repro")
    assert run.returncode == 1
    assert run.stderr == (
        "segtrail: error: this is not the top folder of a Segtrail project: dvc.yaml, .dvc/config missing\n"
        f"  where: {tmp_path}\n  fix:   change to the project's folder; a fresh one: git clone\n"
    )


def write_json(path: str, record: object) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(record))


SHA = "0123456789abcdef" * 4


def use_metric(name: str) -> None:
    path = Path("params.yaml")
    path.write_text(re.sub(r"(?m)^  metric: \S+", f"  metric: {name}", path.read_text()))


def entry(name: str, value: float | None, half: float = 0.05, n: int = 8) -> dict[str, float | None]:
    if value is None:
        return {name: None, f"{name}_ci_low": None, f"{name}_ci_high": None, f"{name}_n": n}
    return {name: value, f"{name}_ci_low": value - half, f"{name}_ci_high": value + half, f"{name}_n": n}


def test_summary_shows_the_models_side_by_side(project: Path) -> None:
    use_metric("test/mask_map_10_50")
    base = {"baseline_otsu_lung/dice": 0.3, "baseline_otsu_lung/dice_n": 8}
    unet = entry("test/dice", 0.81234) | entry("test/mask_map_10_50", 0.5) | entry("test/cpm", 0.25)
    other = entry("test/dice", 0.75) | entry("test/mask_map_10_50", 0.625) | entry("test/cpm", None)
    for model, numbers, sha256 in (("unet", unet, "f" * 64), ("maskrcnn", other, SHA)):
        write_json(f"data/metrics/{model}/metrics.json", {"metrics": numbers | base})
        write_json(f"data/models/{model}/run.json", {"bundle_sha256": sha256})
    decision = {"name": "phantom", "champion_after": SHA, "challenger": SHA, "promoted": True}
    decision |= {"reasons": ["there was no champion"], "decided": "2026-01-02T03:04:05+00:00"}
    write_json("data/registry/decision.json", decision)
    write_json("data/report/index.html", "")
    assert summarise({"inspect": 4.2, "train@unet": 61.0}, 70.0) == (
        "\n"
        "                         unet                         maskrcnn\n"
        "test/dice                0.8123 [0.7623, 0.8623] n=8  0.7500 [0.7000, 0.8000] n=8\n"
        "test/mask_map_10_50 *    0.5000 [0.4500, 0.5500] n=8  0.6250 [0.5750, 0.6750] n=8\n"
        "test/cpm                 0.2500 [0.2000, 0.3000] n=8  -\n"
        "baseline_otsu_lung/dice  0.3000 n=8                   0.3000 n=8\n"
        "bundle                   ffffffffffff                 0123456789ab\n"
        "alias                    -                            champion, challenger\n"
        "* chooses the model\n"
        "\n"
        "registered model phantom: champion 0123456789ab since 2026-01-02T03:04 (there was no champion)\n"
        "1 min 10 s in all (inspect 4 s, train@unet 1 min 01 s)\n"
        f"report:  file://{project}/data/report/index.html\n"
        "browse:  make ui  (MLflow on http://127.0.0.1:5000, Prefect on http://127.0.0.1:4200)\n"
    )


def test_summary_says_who_won_by_validation(project: Path) -> None:
    path = Path("params.yaml")
    path.write_text(re.sub(r"(?m)^models: \[.*?\]", "models: [unet, unet_2d, maskrcnn]", path.read_text()))
    digests = {"unet": SHA, "unet_2d": "f" * 64, "maskrcnn": "e" * 64}
    for model, sha256 in digests.items():
        write_json(f"data/metrics/{model}/metrics.json", {"metrics": {"test/dice": 0.5}})
        write_json(f"data/models/{model}/run.json", {"bundle_sha256": sha256})

    def group(metric: str, winner: str, **scores: float | None) -> dict[str, object]:
        lines = [{"bundle_sha256": digests[m], "model": m, "score": score} for m, score in scores.items()]
        return {"metric": metric, "winner": digests[winner], "scores": lines}

    validation = [
        group("validation_dice", "unet_2d", unet=0.81234, unet_2d=0.825),
        group("validation_mask_map_10_50", "maskrcnn", maskrcnn=0.25),
    ]
    decision = {"name": "phantom", "champion_after": SHA, "challenger": SHA, "promoted": False, "decided": ""}
    write_json("data/registry/decision.json", decision | {"validation": validation, "reasons": []})
    lines = [line.split("  ") for line in summarise({}, 1.0).splitlines()]
    rows = [[cell.strip() for cell in line if cell] for line in lines]
    assert ["validation_dice *", "0.8123", "0.8250 competes", "-"] in rows
    assert ["validation_mask_map_10_50", "-", "-", "0.2500"] in rows
    assert ["* chooses the model: among those validated by one metric validation, then the test"] in rows


def test_summary_of_a_refused_challenger_on_pictures(project: Path) -> None:
    use_metric("test/nucleus/ap_dsb")
    numbers = {"test/dice": 0.5, "test/mask_map_50": 0.25, "test/nucleus/ap_dsb": 0.125}
    write_json("data/metrics/unet/metrics.json", {"metrics": numbers})
    write_json("data/models/unet/run.json", {"bundle_sha256": SHA})
    decision = {"name": "phantom", "champion_after": "f" * 64, "challenger": SHA, "promoted": False}
    write_json("data/registry/decision.json", decision | {"reasons": ["worse", "few cases"]})
    lines = summarise({}, 1.0).splitlines()
    assert [line.split() for line in lines[1:7]] == [
        ["unet"], ["test/dice", "0.5000"], ["test/mask_map_50", "0.2500"],
        ["test/nucleus/ap_dsb", "*", "0.1250"], ["bundle", SHA[:12]], ["alias", "challenger"],
    ]  # fmt: skip
    assert f"champion ffffffffffff stays, challenger {SHA[:12]} refused (worse; few cases)" in lines[9]


def test_summary_before_anything_was_evaluated(project: Path) -> None:
    text = summarise({"inspect": 1.0}, 2.0)
    assert text.startswith("\n2 s in all (inspect 1 s)\nbrowse:")
