"""Real sections: the membrane is what the label leaves black."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.io.images import load_label_map
from pipeline.io.sources import list_cases


def test_neighbouring_sections_share_a_side(shared_data: Path) -> None:
    _, cases = list_cases(shared_data / "isbi2012_em", "isbi_em")
    blocks = Counter(case.patient_id for case in cases)
    assert blocks == {"sections_00": 5, "sections_05": 5, "sections_10": 5, "sections_15": 5}
    assert next(case.case_id for case in cases if case.patient_id == "sections_15") == "section_15"


def test_the_membrane_is_the_class(shared_data: Path, inspect: Callable[..., Any]) -> None:
    found = inspect(shared_data / "isbi2012_em", "isbi_em", "section_03")
    assert (found.record.verdict, found.record.shape) == ("ok", (512, 512, 1))
    pixels = np.asarray(Image.open(shared_data / "isbi2012_em/membrane/train/label/3.png"))
    label = load_label_map(Path(found.record.label)).array[:, :, 0].T
    assert (label == (pixels == 0)).all()
    assert 0.1 < label.mean() < 0.3  # the README says that 78 % of the pixels are cells
