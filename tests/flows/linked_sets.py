"""Real data sets as links in `data/raw`, where a test may replace a file, and the output of the stage `inspect`."""

from __future__ import annotations

import json
from pathlib import Path

OUTPUT = Path("data/inspected")


def choose(project: Path, dataset: str, layout: str = "msd") -> None:
    """Points `params.yaml` to a data set."""
    path = project / "params.yaml"
    text = path.read_text(encoding="utf-8").replace("dataset: phantom ", f"dataset: {dataset} ")
    path.write_text(text.replace("layout: msd ", f"layout: {layout} "), encoding="utf-8")


def link_hippocampi(project: Path, shared_data: Path, count: int) -> Path:
    """Makes `data/raw/hippocampus` with the first real cases; its path."""
    source, folder = shared_data / "Task04_Hippocampus", project / "data/raw/hippocampus"
    facts = json.loads((source / "dataset.json").read_text())
    facts["training"] = facts["training"][:count]
    for entry in facts["training"]:
        for name in entry.values():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to((source / name).resolve())
    (folder / "dataset.json").write_text(json.dumps(facts))
    choose(project, "hippocampus")
    return folder


def replace_file(path: Path, contents: bytes) -> None:
    path.unlink()  # the link, never the shared file
    path.write_bytes(contents)


def read_output() -> dict[str, bytes]:
    return {p.relative_to(OUTPUT).as_posix(): p.read_bytes() for p in OUTPUT.rglob("*") if p.is_file()}
