"""Layout `sunnybrook` (2009 left ventricle challenge, as PNG): single slices of cine MRI of the heart.

Source: Radau et al., Evaluation framework for algorithms segmenting short axis cardiac MRI, The MIDAS Journal (2009).
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from pipeline.cases import CaseRecord
from pipeline.io.dataset import DatasetFacts, Listing
from pipeline.io.images import COLOURS, is_colour_picture
from pipeline.io.public_sets import build_from_mask, find_files, set_patients, start_listing

FILE = re.compile(r"((.+)-IM-\d+-\d+)(\.dcm)?\.png")


def list_dataset(folder: Path) -> Listing:
    """Lists `Images/.../<patient>-IM-<series>-<instance>.dcm.png` with the mask under the same name in `Labels`.

    All slices and phases of a patient share a side of the split. What is not black in the mask is the blood of the
    left ventricle. The grey images are stored as three equal colours, and are read as they are stored. An image
    without a mask has no label.
    """
    images = {}
    for path in find_files(folder, "*.png"):
        match = FILE.fullmatch(path.name)
        if match and "Images" in path.relative_to(folder).parts:
            images[path] = (match[1], match[2])
    colours = bool(images) and is_colour_picture(next(iter(images)))
    listing = start_listing(
        folder,
        DatasetFacts(
            folder.name,
            COLOURS if colours else ("MRI",),
            {"background": 0, "left_ventricle": 1},
            "Sunnybrook cine MRI of the heart, short-axis slices at the end of diastole and of systole.",
            "CC0",
        ),
    )
    for path, (case_id, patient_id) in images.items():
        listing.records.append(
            CaseRecord(case_id, patient_id, "", (path.as_posix(),), label="", instances="")
        )
        mask = _mask_of(path, folder)
        if mask.is_file():
            listing.references[case_id] = partial(build_from_mask, mask, 0)
    set_patients(listing)
    return listing


def _mask_of(path: Path, folder: Path) -> Path:
    """The same path with the innermost folder `Images` called `Labels`."""
    parts = list(path.relative_to(folder).parts)
    place = len(parts) - 1 - parts[::-1].index("Images")
    parts[place] = "Labels"
    return folder.joinpath(*parts)
