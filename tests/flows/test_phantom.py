"""Stage `phantom`: files, bytes, growth, and that nothing half-written is left."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import yaml
from numpy.typing import NDArray

from flows import phantom
from flows.phantom import phantom_flow
from pipeline.errors import SegtrailError
from pipeline.io.sources import list_cases

PARAMS = Path("params.yaml")
TARGET = Path("data/raw/phantom")


def write_params(cases: int) -> None:
    params = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    params["phantom"] |= {"cases": cases, "shape": [64, 64, 48], "datasets": ["phantom"]}
    PARAMS.write_text(yaml.safe_dump(params), encoding="utf-8")


def itk_affine(path: str) -> NDArray[np.float64]:
    """Voxel index to RAS+ mm as SimpleITK reads it; its own world is LPS."""
    image = SimpleITK.ReadImage(path)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def file_bytes() -> dict[str, bytes]:
    return {p.relative_to(TARGET).as_posix(): p.read_bytes() for p in TARGET.rglob("*") if p.is_file()}


@dataclass(frozen=True)
class Made:
    """A folder that the flow made in a project of its own, and its files."""

    project: Path
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    project = tmp_path_factory.mktemp("phantom")
    source = Path("params.yaml").resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        PARAMS.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
        write_params(10)
        phantom_flow.fn("phantom")
        yield Made(project, file_bytes())


class TestFiles:
    def test_layout_is_msd_with_patients_and_instances(self, made: Made) -> None:
        facts, cases = list_cases(TARGET, "msd")
        assert facts.channels == ("CT",)
        assert facts.labels == {"background": 0, "nodule": 1}
        assert [case.case_id for case in cases] == [f"phantom_{i:03d}" for i in range(10)]
        assert cases[4].patient_id == cases[5].patient_id == "p004"
        assert {case.site for case in cases} == {"north", "south"}
        assert all(Path(case.instances).is_file() for case in cases)
        assert len(made.files) == 3 * 10 + 2
        assert json.loads(made.files["dataset.json"])["numTraining"] == 10
        rows = list(csv.reader(made.files["patients.csv"].decode().splitlines()))
        assert rows[0] == ["case_id", "patient_id", "site"]
        assert len(rows) == 11

    def test_headers_agree_as_nibabel_reads_them(self, made: Made) -> None:
        orientations = set()
        for number in range(10):
            image, label, ids = (
                nibabel.load(made.project / TARGET / folder / f"phantom_{number:03d}.nii.gz")
                for folder in ("imagesTr", "labelsTr", "instancesTr")
            )
            assert image.get_data_dtype() == np.int16
            assert label.get_data_dtype() == ids.get_data_dtype() == np.uint8
            assert image.shape == label.shape == ids.shape
            assert (image.affine == label.affine).all() and (image.affine == ids.affine).all()
            assert image.get_sform(coded=True)[1] > 0
            # Near half a turn a NIfTI quaternion in float32 loses 0.1 mm: the writer then leaves it uncoded.
            if image.get_qform(coded=True)[1] > 0:
                assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-3)
            assert itk_affine(image.get_filename()) == pytest.approx(image.affine, abs=1e-3)
            values = np.unique(np.asanyarray(label.dataobj))
            assert set(values) <= {0, 1}
            orientations.add("".join(nibabel.aff2axcodes(image.affine)))
        assert len(orientations) >= 2

    def test_gzip_holds_no_time_stamp(self, made: Made) -> None:
        stamps = {data[4:8] for name, data in made.files.items() if name.endswith(".gz")}
        assert stamps == {bytes(4)}


class TestRuns:
    @pytest.mark.slow
    def test_more_cases_leave_the_first_as_they_were_to_the_byte(self, made: Made) -> None:
        write_params(12)
        phantom_flow.fn("phantom")
        grown = file_bytes()
        assert len(grown) == 3 * 12 + 2
        for name, data in made.files.items():
            if name.endswith(".gz"):
                assert grown[name] == data, name
        assert grown["patients.csv"].startswith(made.files["patients.csv"])

    def test_a_failure_leaves_the_old_folder_whole_and_no_draft(
        self, made: Made, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = file_bytes()
        real = phantom.make_case

        def fails_at_three(params: object, index: int) -> object:
            if index == 3:
                raise SegtrailError("full disk", "here", "free space")
            return real(params, index)  # type: ignore[arg-type]

        monkeypatch.setattr(phantom, "make_case", fails_at_three)
        with pytest.raises(SegtrailError, match="full disk"):
            phantom_flow.fn("phantom")
        assert file_bytes() == before
        assert [path.name for path in TARGET.parent.iterdir()] == ["phantom"]

    def test_a_name_that_params_do_not_list_is_refused(self, made: Made) -> None:
        with pytest.raises(SegtrailError, match="unknown phantom data set 'fantom'") as error:
            phantom_flow.fn("fantom")
        assert "phantom" in error.value.fix
        assert not (TARGET.parent / "fantom").exists()

    def test_real_data_under_the_same_name_are_kept(self, project: Path) -> None:
        write_params(10)
        own = project / TARGET / "dataset.json"
        own.parent.mkdir(parents=True)
        own.write_text('{"name": "mine"}', encoding="utf-8")
        with pytest.raises(SegtrailError, match="not a phantom"):
            phantom_flow.fn("phantom")
        assert own.read_text(encoding="utf-8") == '{"name": "mine"}'

    def test_runs_under_prefect_with_the_same_bytes(
        self, made: Made, project: Path, prefect_harness: None
    ) -> None:
        write_params(10)
        phantom_flow("phantom")
        assert file_bytes() == made.files
