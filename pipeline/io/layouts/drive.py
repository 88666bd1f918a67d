"""Layout `drive`: photographs of the retina (TIFF) with masks of the vessels and of the field of view (GIF).

Source: Staal et al., Ridge-based vessel segmentation in color images of the retina, IEEE TMI 23:501-509 (2004).
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.cases import CaseRecord
from pipeline.config import InspectParams
from pipeline.io.dataset import DatasetFacts, Listing
from pipeline.io.images import COLOURS
from pipeline.io.public_sets import build_from_mask, find_files, set_patients, start_listing
from pipeline.io.references import References
from pipeline.io.stored import StoredImage

OUTSIDE = 2  # label value of what lies outside the field of view
FILE = re.compile(r"(\d+)_(training|test)\.tif")


def list_dataset(folder: Path) -> Listing:
    """Lists `{training,test}/images/<n>_<part>.tif` with `1st_manual/<n>_manual1.gif`, below `DRIVE` or at the top.

    A case is called like its image, `21_training`; without a drawing it has no label. What lies outside the field of
    view (`mask/<n>_<part>_mask.gif`) is not labelled: it counts neither in the loss nor in the metrics, as in the
    challenge. The second reader's drawings are left out. Patients may be named in `patients.csv`.
    """
    listing = start_listing(
        folder,
        DatasetFacts(
            folder.name,
            COLOURS,
            {"background": 0, "vessel": 1},
            "DRIVE: vessels in photographs of the retina.",
            ignore=OUTSIDE,
        ),
    )
    ignore = listing.facts.ignore if listing.facts else None
    for path in find_files(folder, "images/*.tif"):
        if match := FILE.fullmatch(path.name):
            case_id = path.stem
            record = CaseRecord(case_id, case_id, "", (path.as_posix(),), label="", instances="")
            listing.records.append(record)
            drawing = path.parent.with_name("1st_manual") / f"{match[1]}_manual1.gif"
            if drawing.is_file():
                field = path.parent.with_name("mask") / f"{case_id}_mask.gif"
                view = field if field.is_file() else None
                listing.references[case_id] = partial(build_vessels, drawing, view, ignore)
    set_patients(listing)
    return listing


def build_vessels(
    drawing: Path, field: Path | None, ignore: int | None, image: StoredImage, params: InspectParams
) -> References:
    """Makes the label map of one photograph.

    Args:
        drawing: Of the vessels, white.
        field: Of the field of view, white; None = the whole picture.
        ignore: Label value outside the field of view; None = it is background.
        image: The photograph that both must fit.
        params: Play no role here.
    """
    vessels = build_from_mask(drawing, 0, image, params)
    if field is None or ignore is None or vessels.label is None:
        return vessels
    view = build_from_mask(field, 0, image, params)
    if view.label is None:
        return view
    return References(label=np.where(view.label == 0, ignore, vessels.label))
