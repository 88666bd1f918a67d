"""Layout `isbi_em` (ISBI 2012 challenge): consecutive electron microscopy sections with the cells drawn white.

Source: Arganda-Carreras et al., Crowdsourcing the creation of image segmentation algorithms for connectomics,
Frontiers in Neuroanatomy 9:142 (2015).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.cases import CaseRecord
from pipeline.io.dataset import DatasetFacts, Listing
from pipeline.io.public_sets import build_from_mask, find_files, set_patients, start_listing

INSIDE = 255  # value inside the cells; what is 0 is membrane, the object
BLOCK = 5  # neighbouring sections that stay together: they show the same cells


def list_dataset(folder: Path) -> Listing:
    """Lists `train/image/<n>.png` with `train/label/<n>.png`, wherever the folder `train` lies.

    Sections are consecutive, so those of a block of five count as one patient and share a side of the split (the two
    at the border of blocks are still neighbours). Class 1 is the membrane. A section without a label has none.
    """
    listing = start_listing(
        folder,
        DatasetFacts(
            folder.name,
            ("EM",),
            {"background": 0, "membrane": 1},
            "ISBI 2012: serial section electron microscopy of a fly's nerve cord.",
        ),
    )
    for path in find_files(folder, "train/image/*.png"):
        if not path.stem.isdigit():
            continue
        number = int(path.stem)
        case_id, block = f"section_{number:02d}", f"sections_{number - number % BLOCK:02d}"
        listing.records.append(CaseRecord(case_id, block, "", (path.as_posix(),), label="", instances=""))
        label = path.parent.with_name("label") / path.name
        if label.is_file():
            listing.references[case_id] = partial(build_from_mask, label, INSIDE)
    set_patients(listing)
    return listing
