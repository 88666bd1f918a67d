"""Fixtures that several tests share: real data, small NIfTI cases, and Prefect's harness."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before anything loads OpenMP

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def fresh_logger() -> Iterator[None]:
    """Leaves Segtrail's logger as it was: a handler that a test adds must not speak in the next one."""
    logger = logging.getLogger("segtrail")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


@pytest.fixture(autouse=True, scope="session")
def private_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps salt and hashes of the tests away from those of the user."""
    os.environ["SEGTRAIL_PRIVATE_DIR"] = str(tmp_path_factory.mktemp("private"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sample data beside the checkout."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no sample data: {folder} is absent")
    return folder


@pytest.fixture(scope="session")
def prefect_harness() -> Iterator[None]:
    """A throw-away Prefect server and database for the whole session (8 s to start)."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@dataclass(frozen=True)
class CaseFolder:
    """A data set in MSD layout that a test fills, written with nibabel alone."""

    folder: Path

    def write_dataset(
        self, labels: dict[str, str] | None = None, modality: Sequence[str] = ("MRI",), **more: Any
    ) -> None:
        """Writes `dataset.json`; labels as MSD has them: value -> name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "name": "Small",
            "modality": {str(i): name for i, name in enumerate(modality)},
            "labels": labels or {"0": "background", "1": "organ"},
        }
        (self.folder / "dataset.json").write_text(json.dumps(facts | more), encoding="utf-8")

    def write(
        self,
        case_id: str,
        image: NDArray[Any],
        label: NDArray[Any] | None = None,
        affine: NDArray[Any] | None = None,
        label_affine: NDArray[Any] | None = None,
    ) -> Path:
        """Writes one case; returns the image's path."""
        affine = np.eye(4) if affine is None else affine
        image_path = self.folder / "imagesTr" / f"{case_id}.nii.gz"
        image_path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(image, affine), image_path)
        if label is not None:
            label_path = self.folder / "labelsTr" / f"{case_id}.nii.gz"
            label_path.parent.mkdir(parents=True, exist_ok=True)
            placed = affine if label_affine is None else label_affine
            nibabel.save(nibabel.Nifti1Image(label, placed), label_path)
        return image_path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder with the shipped `params.yaml`, as the working directory."""
    (tmp_path / "params.yaml").write_text(
        (PROJECT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def case_folder(project: Path) -> CaseFolder:
    """`data/raw/small` of an empty project, relative to the working directory."""
    return CaseFolder(Path("data/raw/small"))
