"""Volumes and intensities far from all others: what is found, and how often good cases are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import load_params
from pipeline.fingerprint import ChannelStatistics, ClassStatistics, Fingerprint
from pipeline.inspection import inspect_case, inspect_set
from pipeline.io.sources import open_dataset
from pipeline.outliers import describe_copies, find_value_outliers

LIMIT = load_params().inspect.value_outlier


def fingerprint(case_id: str, volume: float, median: float = 100.0, image: str = "") -> Fingerprint:
    """Intensities from median - 60 to median + 90."""
    channel = ChannelStatistics(
        mean=median, std=30.0, median=median, min=0, max=999, p00_5=median - 60, p99_5=median + 90, samples=()
    )
    organ = ClassStatistics(voxels=int(volume), volume_mm3=volume, components=1, centroid_fraction=None)
    return Fingerprint(
        case_id=case_id,
        shape=(9, 9, 9),
        spacing_mm=(1, 1, 1),
        intensity=(channel,),
        classes={"organ": organ},
        image_sha256=image or case_id,
    )


def outliers(volumes: Sequence[float], limit: float = LIMIT) -> set[str]:
    prints = [fingerprint(str(i), float(v)) for i, v in enumerate(volumes)]
    return {case_id for case_id, _ in find_value_outliers(prints, limit)}


def test_distance_is_counted_in_spreads_of_the_logarithm() -> None:
    """All alike: the spread is its floor of 0.05, so that e^0.35 times the volume is 7 spreads away."""
    volumes = [1000.0] * 12
    volumes[3] *= float(np.exp(0.351))
    volumes[5] *= float(np.exp(-0.349))
    assert outliers(volumes, 7.0) == {"3"}
    assert outliers(volumes, 6.9) == {"3", "5"}
    assert outliers(volumes[:9], 6.9) == set()  # too few say nothing


def test_the_reason_names_value_median_and_limit() -> None:
    volumes = [1000.0] * 11 + [2000.0]
    ((case_id, (finding,)),) = find_value_outliers(
        [fingerprint(str(i), v) for i, v in enumerate(volumes)], 6.0
    )
    assert (case_id, finding.code, finding.verdict) == ("11", "volume_outlier", "warn")
    assert finding.reason == (  # ln 2 / 0.05 = 13.9
        "the volume of organ is 2000 mm3, 13.9 robust deviations from the set's median 1000 mm3, "
        "limit inspect.value_outlier = 6"
    )
    assert (finding.measured, finding.limit) == (
        "2000 mm3",
        "set's median 1000 mm3, inspect.value_outlier = 6",
    )


def test_hounsfield_units_count_as_they_are_other_scales_do_not() -> None:
    """Offset by 1024, as a scanner leaves it: wrong for CT, nothing for MR."""
    prints = [fingerprint(str(i), 1000.0, 50.0 + i % 3) for i in range(12)]
    prints[4] = fingerprint("4", 1000.0, 1074.0)
    assert {c for c, _ in find_value_outliers(prints, LIMIT, ["CT"])} == {"4"}
    assert list(find_value_outliers(prints, LIMIT, ["MRI"])) == []
    inverted = prints[0].intensity[0].model_copy(update={"p00_5": -290.0, "p99_5": 60.0, "median": 50.0})
    prints[7] = prints[7].model_copy(update={"intensity": (inverted,)})
    assert {c for c, _ in find_value_outliers(prints, LIMIT, ["MRI"])} == {"7"}


def test_three_of_a_kind_are_no_outliers() -> None:
    volumes = [1000.0] * 20 + [5000.0] * 3
    assert outliers(volumes) == set()
    assert outliers(volumes[:-1]) == {"20", "21"}


@pytest.mark.parametrize(("count", "most"), [(10, 0.001), (20, 0.001), (220, 0.0001)])
def test_false_alarms_in_draws(count: int, most: float) -> None:
    """Log-normal volumes with a deviation of 0.2 to 1 (organs to tumours): share of good cases with a remark."""
    generator = np.random.default_rng(0)
    draws = 20_000 // count
    found = sum(
        len(outliers(np.exp(generator.normal(7, generator.uniform(0.2, 1), count)))) for _ in range(draws)
    )
    assert found / (draws * count) <= most


def test_copies_with_another_patient_are_told_as_such() -> None:
    prints = [fingerprint(name, 1.0, image=image) for name, image in zip("abcd", "xxxy", strict=True)]
    found = dict(describe_copies(prints, {"a": "p1", "b": "p1", "c": "p2", "d": "p3"}))
    assert {c: [f.code for f in fs] for c, fs in found.items()} == {
        "b": ["duplicate_of:a"],
        "c": ["duplicate_of:a", "same_patient"],
    }


@pytest.mark.slow  # 220 cases: a few seconds, more on a busy machine
def test_220_real_hippocampi_have_no_remark_and_a_spoilt_one_has(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared_data)
    dataset = open_dataset(Path("Task04_Hippocampus"), "msd")
    params = load_params(Path(__file__).parents[2] / "params.yaml").inspect
    results = [inspect_case(record, dataset.facts, params) for record in dataset.records]
    judged = inspect_set(results, params, dataset.facts.channels)
    assert len(judged) >= 220 and json.dumps([r.record.code for r in judged if r.findings]) == "[]"
    prints = [r.fingerprint for r in results if r.fingerprint is not None]
    organ = prints[0].classes["Anterior"]
    for factor in (0.3, 4.0):
        classes = {"Anterior": organ.model_copy(update={"volume_mm3": organ.volume_mm3 * factor})}
        spoilt = prints[0].model_copy(update={"classes": prints[0].classes | classes})
        assert [c for c, _ in find_value_outliers([spoilt, *prints[1:]], LIMIT)] == [spoilt.case_id]
