"""Nights in which something breaks: kills, and what the nights need goes away."""

from __future__ import annotations

from datetime import UTC, datetime

from month_project import DATASET, Record, clear, wait_until
from month_schedule import Month

from flows.locks import is_alive

TRAINED = ("promoted", "refused", "kept")
LOT = 6


def killed_in_training(month: Month) -> list[Record]:
    month.deliver("before_the_kill", LOT)
    record = month.begin()
    checkpoints = month.folder / ".segtrail/checkpoints"
    wait_until(lambda: list(checkpoints.rglob("resume.safetensors")))
    month.kill(record, with_stages=False)
    record = month.finish(record)
    assert record["state"] == "running"  # a killed process can say nothing: the next night does
    wait_until(lambda: not month.processes_of(record["night_id"]))
    return [record]


def killed_in_registering(month: Month) -> list[Record]:
    """The power goes as soon as the decision about the champion stands, before MLflow has it."""
    month.deliver("before_the_power_goes", LOT)
    path = month.folder / f"data/registry/versions/{DATASET}/decision.json"
    before = path.read_bytes()
    record = month.begin()
    wait_until(lambda: path.is_file() and path.read_bytes() != before)
    month.kill(record, with_stages=True)
    record = month.finish(record)
    assert record["state"] == "running"
    return [record]


def after_a_kill(month: Month) -> list[Record]:
    killed = month.records()[-1]["night_id"]
    record = month.night()
    assert month.load(killed)["state"] == "killed"
    assert month.load(killed)["reason"].startswith("killed ")
    assert f"night {killed}: killed " in record["steps"][0]["message"]
    assert record["state"] in TRAINED, record["reason"]
    return [record]


def two_at_once(month: Month) -> list[Record]:
    """The next night is due while one is at work: whichever of them comes first works, the other says why not."""
    known = {record["night_id"] for record in month.records()}
    month.deliver("for_two_nights", LOT)
    one = month.begin(count=2, every_s=8)
    other = month.started_since(known | {one["night_id"]})
    pair = [month.finish(record) for record in (one, other)]
    second, record = sorted(pair, key=lambda found: found["state"] != "skipped")
    assert second["state"] == "skipped", second["reason"]
    assert second["reason"] == f"the night of {record['started']} (PID {record['pid']}) is still running"
    assert record["state"] in TRAINED, record["reason"]
    return [record, second]


def without_store(month: Month) -> list[Record]:
    clear(month.folder / ".segtrail", ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm", "mlartifacts"))
    before = month.champion()
    record = month.night()
    assert record["state"] == "kept", record["reason"]
    assert "rebuilt from the files" in record["reason"]
    assert month.champion() == before
    return [record]


def without_remote(month: Month) -> list[Record]:
    """The drive of the remote is not mounted. Nothing is lost, and the night after pushes all."""
    month.deliver("not_pushed", LOT)
    away = month.remote.with_name("remote_elsewhere")
    month.remote.rename(away)
    record = month.night()
    assert record["state"] == "failed", record["reason"]
    assert record["reason"].startswith("push: ")
    assert not month.remote.exists()
    away.rename(month.remote)
    after = month.night()
    assert after["state"] == "skipped", after["reason"]
    assert after["push"]["pushed"], after
    month.require_pushed()
    return [record, after]


def full_disk(month: Month) -> list[Record]:
    """No room is left while the night trains."""
    if not month.has_disk:
        print("left out: only root can mount a disk to fill")
        return []
    month.deliver("no_room", LOT)
    record = month.begin()
    wait_until(lambda: "train@unet" in month.log(record["night_id"]))
    month.resize_to_full()
    wait_until(lambda: not is_alive(record["pid"]))
    month.resize()  # Prefect's database lies on that disk: how the run ended is told once there is room
    record = month.finish(record)
    assert record["state"] == "failed", record["reason"]
    assert "full" in record["reason"], record["reason"]
    assert record["report"]
    return [record]


def after_a_full_disk(month: Month) -> list[Record]:
    if not month.has_disk:
        return []
    record = month.night()
    assert record["state"] in TRAINED, record["reason"]
    return [record]


def schedule_killed(month: Month) -> list[Record]:
    """The serving process is killed, a night is due meanwhile, and is made up for when it is served again."""
    known = {record["night_id"] for record in month.records()}
    (due,) = month.plan()
    month.kill_serving()
    wait_until(lambda: datetime.now(UTC) > due)
    month.serve()
    record = month.finish(month.started_since(known))
    assert (record["trigger"], record["state"]) == ("schedule", "skipped"), record["reason"]
    assert record["due"] == due.isoformat(timespec="seconds")
    return [record]


def schedule_restarted_at_work(month: Month) -> list[Record]:
    """The serving process is killed while a night is at work: the night goes on."""
    month.deliver("without_a_server", LOT)
    record = month.begin()
    wait_until(lambda: "preprocess" in month.log(record["night_id"]))
    month.kill_serving()
    month.serve()
    record = month.finish(record)
    assert record["state"] in TRAINED, record["reason"]
    return [record]
