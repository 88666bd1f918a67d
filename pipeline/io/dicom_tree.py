"""What a folder tree of DICOM files holds: series of images, and the objects that label them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from pipeline.io.dicom_files import DAMAGED, is_dicom, name_series

IMAGES = ("CT", "MR", "PT")
SEGMENTATION, STRUCTURES = "SEG", "RTSTRUCT"
TAGS = (
    *("Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
    *("FrameOfReferenceUID", "ReferencedFrameOfReferenceUID", "ReferencedSeriesSequence"),
    *("ReferencedFrameOfReferenceSequence", "SegmentSequence", "StructureSetROISequence"),
)


@dataclass(frozen=True)
class ImageSeries:
    """One series of images.

    Attributes:
        path: The folder that holds it and no other DICOM file, or `FOLDER#UID`; relative to the project.
        uid: SeriesInstanceUID.
        patient_id: As the headers have it; "" when they have none.
        study_uid: StudyInstanceUID.
        modality: One of IMAGES.
        frame_uid: FrameOfReferenceUID, "" when there is none.
    """

    path: Path
    uid: str
    patient_id: str
    study_uid: str
    modality: str
    frame_uid: str


@dataclass(frozen=True)
class LabelObject:
    """A DICOM segmentation or an RT structure set.

    Attributes:
        path: Its file.
        modality: SEG or RTSTRUCT.
        names: Of its segments or structures, as it has them.
        series_uids: Of the series that it says it was drawn on.
        frame_uids: Frames of reference that it names.
    """

    path: Path
    modality: str
    names: tuple[str, ...]
    series_uids: frozenset[str]
    frame_uids: frozenset[str]


@dataclass
class DicomTree:
    """A folder tree.

    Attributes:
        series: Of images, in the order of their paths.
        objects: That label them, in the order of their paths.
        others: Number of files by modality that are neither.
        damaged: DICOM files without a header that can be read.
    """

    series: list[ImageSeries] = field(default_factory=list)
    objects: list[LabelObject] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    damaged: list[Path] = field(default_factory=list)


def scan_tree(folder: Path) -> DicomTree:
    """Reads the header of each DICOM file below a folder; hidden files and folders are left out.

    Series are told apart by their SeriesInstanceUID, wherever their files lie.
    """
    tree = DicomTree()
    members: dict[str, list[tuple[Path, pydicom.Dataset]]] = defaultdict(list)
    owners: dict[Path, set[str]] = defaultdict(set)  # what the DICOM files of a folder belong to
    for path in _walk(folder):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
            uid, modality = str(header.get("SeriesInstanceUID", "")), str(header.get("Modality", ""))
            if modality in (SEGMENTATION, STRUCTURES):
                tree.objects.append(_to_object(header, path))
        except DAMAGED:
            tree.damaged.append(path)
            owners[path.parent].add(path.name)
            continue
        owners[path.parent].add(uid if modality in IMAGES else path.name)
        if modality in IMAGES:
            members[uid].append((path, header))
        elif modality not in (SEGMENTATION, STRUCTURES):
            tree.others[modality or "unknown"] += 1
    tree.series = [_to_series(uid, files, owners) for uid, files in members.items()]
    tree.series.sort(key=lambda item: (item.path.as_posix(), item.uid))
    return tree


def _walk(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for name in sorted(names) if is_dicom(path := Path(here, name)))


def _to_series(
    uid: str, files: Sequence[tuple[Path, pydicom.Dataset]], owners: dict[Path, set[str]]
) -> ImageSeries:
    places = {path.parent for path, _ in files}
    place = Path(os.path.commonpath(places))
    alone = len(places) == 1 and owners[place] == {uid}
    header = files[0][1]
    return ImageSeries(
        path=place if alone else name_series(place, uid),
        uid=uid,
        patient_id=str(header.get("PatientID") or "").strip(),
        study_uid=str(header.get("StudyInstanceUID", "")),
        modality=str(header.Modality),
        frame_uid=str(header.get("FrameOfReferenceUID", "")),
    )


def _to_object(header: pydicom.Dataset, path: Path) -> LabelObject:
    modality = str(header.Modality)
    series = list(header.get("ReferencedSeriesSequence", []))
    frames = [str(header.get("FrameOfReferenceUID", ""))]
    for frame in header.get("ReferencedFrameOfReferenceSequence", []):
        frames.append(str(frame.get("FrameOfReferenceUID", "")))
        for study in frame.get("RTReferencedStudySequence", []):
            series += study.get("RTReferencedSeriesSequence", [])
    if modality == SEGMENTATION:
        names = [segment_name(segment) for segment in header.get("SegmentSequence", []) if is_shown(segment)]
    else:
        names = [structure_name(roi) for roi in header.get("StructureSetROISequence", [])]
        frames += [
            str(roi.get("ReferencedFrameOfReferenceUID", ""))
            for roi in header.get("StructureSetROISequence", [])
        ]
    uids = frozenset(str(item.SeriesInstanceUID) for item in series if "SeriesInstanceUID" in item)
    return LabelObject(path, modality, tuple(names), uids, frozenset(frames) - {""})


def is_shown(segment: pydicom.Dataset) -> bool:
    """Whether a segment is something: number 0 of a label map is its background."""
    return int(segment.get("SegmentNumber", 1)) > 0


def segment_name(segment: pydicom.Dataset) -> str:
    """Label of a segment of a DICOM segmentation."""
    return str(segment.get("SegmentLabel") or f"segment {segment.get('SegmentNumber')}").strip()


def structure_name(roi: pydicom.Dataset) -> str:
    """Name of a structure of an RT structure set."""
    return str(roi.get("ROIName") or f"structure {roi.get('ROINumber')}").strip()
