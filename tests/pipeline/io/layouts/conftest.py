"""What the tests of layouts share: a set that is listed and one case of it that is inspected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import load_params
from pipeline.inspection import InspectedCase, inspect_case
from pipeline.io.sources import open_dataset

PARAMS = load_params().inspect
Inspect = Callable[[Path, str, str], InspectedCase]


@pytest.fixture
def inspect(tmp_path: Path) -> Inspect:
    """Inspects one case (folder, layout, case_id) as the stage does; derived references go below tmp_path."""

    def run(folder: Path, layout: str, case_id: str) -> InspectedCase:
        dataset = open_dataset(folder, layout)
        record = next(record for record in dataset.records if record.case_id == case_id)
        references = tmp_path / "references"
        references.mkdir(exist_ok=True)
        return inspect_case(record, dataset.facts, PARAMS, dataset.references.get(case_id), references)

    return run


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., Path]:
    """Makes empty files below a new folder `raw`; listing a set opens no image."""

    def make(*names: str) -> Path:
        folder = tmp_path / "raw"
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return folder

    return make
