"""The error family: three parts, sets reported whole, lookups that list the legal names."""

from __future__ import annotations

import pytest

from pipeline.errors import SegtrailError, collect, unknown_name


def test_text_has_the_three_parts() -> None:
    error = SegtrailError("spacing is 0 mm, expected more than 0", "case_1 in a.nii.gz", "mend the header")
    assert str(error) == (
        "spacing is 0 mm, expected more than 0\n  where: case_1 in a.nii.gz\n  fix:   mend the header"
    )
    assert (error.what, error.where, error.fix) == error.args


def test_one_error_stays_itself() -> None:
    error = SegtrailError("what", "where", "fix")
    assert collect([error]) is error


def test_several_are_listed_in_order_with_every_part() -> None:
    both = collect(
        [SegtrailError("too dark", "case_1", "drop it"), SegtrailError("too big", "case_2", "crop it")]
    )
    assert both.what.splitlines() == [
        "2 problems:",
        "  1. case_1: too dark (fix: drop it)",
        "  2. case_2: too big (fix: crop it)",
    ]
    assert both.where == "case_1; case_2"


def test_unknown_name_lists_the_legal_ones_sorted() -> None:
    error = unknown_name("layout", "msdd", ["table", "msd"], "inspect.layout")
    assert error.what == "unknown layout 'msdd'"
    assert error.fix == "use one of: msd, table"
    assert error.where == "inspect.layout"


def test_it_can_be_caught_and_chained() -> None:
    with pytest.raises(SegtrailError) as caught:
        try:
            raise OSError("disk")
        except OSError as error:
            raise SegtrailError("cannot write", "file", "free space") from error
    assert isinstance(caught.value.__cause__, OSError)
