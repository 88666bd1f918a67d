"""What is seen only beside the other cases, and what makes a whole set unusable."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from inspection_cases import FACTS, PARAMS, image, label, record

from pipeline.cases import CaseRecord
from pipeline.errors import SegtrailError
from pipeline.inspection import inspect_case, inspect_set, require_usable_set

if TYPE_CHECKING:
    from conftest import CaseFolder


def good(case_id: str, **more: Any) -> CaseRecord:
    return record(case_id, sha256="0", **more)


def bad(case_id: str, code: str = "not_finite") -> CaseRecord:
    return good(case_id, verdict="quarantined", code=code, reason=f"reason of {case_id}")


def test_set_findings_change_only_their_cases(case_folder: CaseFolder) -> None:
    results = []
    for index in range(10):
        shifted = np.roll(label(), 3, axis=2) if index == 4 else label()
        case_folder.write(f"c{index}", image() + 1 + max(index, 3 if index == 2 else 0), shifted)
        results.append(inspect_case(record(f"c{index}"), FACTS, PARAMS))
    cases = {found.record.case_id: found.record for found in inspect_set(results, PARAMS)}
    assert {c.case_id for c in cases.values() if c.verdict != "ok"} == {"c3", "c4"}
    assert (cases["c4"].verdict, cases["c4"].code) == ("quarantined", "label_position")
    assert "inspect.position_outlier = 8" in cases["c4"].reason
    assert (cases["c3"].verdict, cases["c3"].code) == ("warn", "duplicate_of:c2;same_patient")
    assert cases["c3"].reason == (
        "the image has the same voxels as c2; one patient under two ids: the image of patient_id 'c3' is that of "
        "'c2' (c2)"
    )
    one = [replace(r, record=replace(r.record, patient_id="one")) for r in results]
    assert {f.record.code for f in inspect_set(one, PARAMS) if f.record.case_id == "c3"} == {
        "duplicate_of:c2"
    }


def test_a_fifth_may_be_bad_and_not_one_more() -> None:
    cases = [*(good(f"g{i}") for i in range(8)), bad("b1"), bad("b2")]
    require_usable_set(cases, PARAMS)
    with pytest.raises(SegtrailError) as caught:
        require_usable_set([*cases, bad("b3")], PARAMS)
    text = str(caught.value)
    assert "3 of 11 cases are quarantined (27%), limit inspect.max_bad_fraction = 0.2" in text
    for name in ("b1", "b2", "b3"):
        assert f"{name}: not_finite (reason of {name})" in text


def test_a_set_without_a_good_case_is_refused_whatever_the_limit() -> None:
    with pytest.raises(SegtrailError, match="1 of 1 cases"):
        require_usable_set([bad("b1")], PARAMS.model_copy(update={"max_bad_fraction": 1.0}))


def test_one_unknown_label_value_refuses_the_set() -> None:
    cases = [
        *(good(f"g{i}") for i in range(20)),
        bad("b1", "geometry_mismatch;label_value_unknown"),
        bad("b2"),
    ]
    with pytest.raises(SegtrailError) as caught:
        require_usable_set(cases, PARAMS)
    assert "reason of b1" in caught.value.what
    assert "b2" not in caught.value.what
    assert caught.value.where == "data/raw/small/dataset.json"
