"""A project that several tests of the report look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report_project import build_project
from tests.report_scores import Recipe


@pytest.fixture
def root(tmp_path: Path) -> Path:
    build_project(tmp_path, Recipe())
    return tmp_path
