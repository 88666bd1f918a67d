"""Writes a label map as a DICOM segmentation of the series it was made from, for archives and viewers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from pipeline.errors import SegtrailError
from pipeline.io.dicom_slices import DAMAGED, list_slices
from pipeline.io.stored import write_whole
from pipeline.volume import LabelMap

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

MAKER = "Segtrail"
SCHEME = "99SEGTRAIL"  # classes of a data set have no codes of a terminology: theirs are private, and say so
CODE_LENGTH = 16  # of a code value, by the standard
# What the standard wants every image to have, if need be empty; many exports leave some out.
NEEDED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
SERIES_NUMBER = 900  # far behind those of a scanner


def save_segmentation(
    label_map: LabelMap, names: Mapping[int, str], series: Path, path: Path, model: str, version: str
) -> None:
    """Writes a BINARY segmentation object, whole or not at all; one segment a class, whether it is seen or not.

    Study, patient and frame of reference are those of the series, and each frame names the slice it lies on.

    Args:
        label_map: (X, Y, Z) on the grid of the series as `read_dicom_series` gives it.
        names: Of each class, by its value in the label map, without the background.
        series: The series' folder.
        path: Ends in `.dcm`.
        model: Name of what made it.
        version: Of the same.

    Raises:
        SegtrailError: The series cannot be read, is another one, or lacks what the standard asks for.
    """
    from highdicom.seg import Segmentation

    slices = list_slices(series)
    expected = (*slices[0].shape, len(slices))
    if label_map.array.shape != expected:
        what = f"the label map has shape {label_map.array.shape}, the series {expected}"
        raise SegtrailError(what, f"{path} and {series}", "predict the series again")
    numbers = np.zeros(int(label_map.array.max(initial=0)) + 1, np.uint8)
    for number, value in enumerate(names, 1):
        numbers[value : value + 1] = number
    planes = np.ascontiguousarray(numbers[label_map.array].transpose(2, 1, 0))
    if slices[0].frame is not None:  # of one file: its planes in the order of its frames
        planes = planes[np.argsort([item.frame or 0 for item in slices])]
    # Stand-ins for patients are no names of several parts, and need not be.
    warnings.filterwarnings("ignore", "The string .* is unlikely to represent the intended person name")
    try:
        sources = [_read_header(path) for path in dict.fromkeys(item.path for item in slices)]
        dataset = Segmentation(
            source_images=sources,
            pixel_array=planes,
            segmentation_type="BINARY",
            segment_descriptions=[
                _describe(n, name, model, version) for n, name in enumerate(names.values(), 1)
            ],
            series_instance_uid=generate_uid(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=MAKER,
            software_versions=version,
            device_serial_number="1",
            content_label="SEGMENTATION",
            content_description=model[:64],
        )
        stream = BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
    except DAMAGED as error:
        what = f"no DICOM segmentation can be made of this series: {error}"
        fix = "export the series again with all its attributes, or predict without --dicom-seg"
        raise SegtrailError(what, str(series), fix) from error
    write_whole(stream.getvalue(), path)


def _read_header(path: Path) -> pydicom.Dataset:
    header = pydicom.dcmread(path, stop_before_pixels=True)
    for name in NEEDED:
        if name not in header:
            setattr(header, name, "")
    return header


def _describe(number: int, name: str, model: str, version: str) -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from highdicom.sr.coding import CodedConcept
    from pydicom.sr.codedict import codes

    return SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=CodedConcept(name[:CODE_LENGTH], SCHEME, name[:64]),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=model[:64],
            version=version,
            family=codes.DCM.ArtificialIntelligence,
        ),
    )
