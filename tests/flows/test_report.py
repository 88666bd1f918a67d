"""The stage `report`: one page from the files, whole or not at all; once under Prefect."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flows.report import report_flow
from pipeline.errors import SegtrailError
from tests.report_project import build_project
from tests.report_scores import Recipe

PAGE = Path("data/report/index.html")


@pytest.fixture
def made(project: Path) -> Path:
    build_project(project, Recipe())
    return project


def test_writes_the_page_with_the_title_of_params(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("segtrail").propagate = True
    with caplog.at_level(logging.INFO, "segtrail"):
        report_flow.fn()
    assert "<title>Segtrail report: phantom</title>" in PAGE.read_text(encoding="utf-8")
    assert "data/report/index.html" in caplog.text
    assert [p.name for p in PAGE.parent.iterdir()] == ["index.html"]


def test_again_gives_the_same_bytes(made: Path) -> None:
    report_flow.fn()
    first = PAGE.read_bytes()
    report_flow.fn()
    assert PAGE.read_bytes() == first


def test_a_missing_file_leaves_no_page(made: Path) -> None:
    Path("data/plan/plan.json").unlink()
    with pytest.raises(SegtrailError) as caught:
        report_flow.fn()
    assert caught.value.fix == "dvc repro plan" and not PAGE.exists()


def test_as_a_prefect_flow(made: Path, prefect_harness: None) -> None:
    report_flow()
    assert PAGE.is_file()
