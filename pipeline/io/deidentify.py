"""De-identification of DICOM files: the basic profile of DICOM PS3.15 Annex E, by a list of what may stay.

Whatever is not known to be harmless goes: private tags, groups of other purposes than imaging, and every text outside
`KEPT_TEXT`. That is more than the profile asks for. UIDs are mapped, dates moved by patient (option "Retain
Longitudinal Temporal Information With Modified Dates"). Names of segments and structures stay: they are the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID

from pipeline.errors import ImageFileError
from pipeline.io.dicom_files import DAMAGED, is_dicom
from pipeline.io.identities import TAGS, Identities, split_name
from pipeline.io.pseudonyms import Pseudonyms
from pipeline.io.stored import COPY_AGAIN, read_contents

IMAGES = ("CT", "MR", "PT", "NM", "CR", "DX", "MG")
ADMITTED = (*IMAGES, "SEG", "RTSTRUCT")  # others carry text, or pictures with text in them
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # screenshots, such as dose reports
GROUPS = (0x0008, 0x0018, 0x0020, 0x0028, 0x0040, 0x0054, 0x0062, 0x2050, 0x3006, 0x5200, 0x7FE0)
PIXELS = 0x7FE0
TEXT = ("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UN", "UR", "UT", "AS")
KEPT_TEXT = """
    Manufacturer ManufacturerModelName SoftwareVersions CodeValue CodingSchemeDesignator CodingSchemeVersion CodeMeaning
    SequenceName PulseSequenceName ConvolutionKernel FilterType RescaleType PositionReferenceIndicator SegmentLabel
    SegmentAlgorithmName AlgorithmName AlgorithmVersion ROIName DimensionDescriptionLabel
"""
# Of group 0040 (procedures, with their times and people) what images need.
KEPT_0040 = """
    RealWorldValueFirstValueMapped RealWorldValueLastValueMapped RealWorldValueIntercept RealWorldValueSlope
    MeasurementUnitsCodeSequence PurposeOfReferenceCodeSequence
"""
# Neither texts nor dates, but listed in the profile, or about other objects than the images here.
DROPPED = """
    ReferencedPatientSequence ReferencedStudySequence ReferencedPerformedProcedureStepSequence ProcedureCodeSequence
    InstitutionCodeSequence PhysiciansOfRecordIdentificationSequence PerformingPhysicianIdentificationSequence
    PhysiciansReadingStudyIdentificationSequence ReferringPhysicianIdentificationSequence
    OperatorIdentificationSequence AdmittingDiagnosesCodeSequence ConsultingPhysicianIdentificationSequence
    InstitutionalDepartmentTypeCodeSequence TransducerIdentificationSequence UDISequence ModifyingDeviceID
    ROICreatorSequence ROIInterpreterSequence BurnedInAnnotation
"""
KEPT, KEPT_OF_PROCEDURES, GONE = (frozenset(names.split()) for names in (KEPT_TEXT, KEPT_0040, DROPPED))
# The standard wants these to be there.
EMPTIED = ("AccessionNumber", "ReferringPhysicianName", "PatientBirthDate", "PatientSex", "StudyID")
METHOD = "Segtrail: basic profile, dates moved, salt "  # its mark follows
METHOD_CODES = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
)


def read_header(path: Path) -> Dataset | None:
    """The tags of a DICOM file that say who it is of; None for files of other kinds.

    Raises:
        ImageFileError: The header cannot be read.
    """
    if not is_dicom(path):
        return None
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
    except DAMAGED as error:
        what = f"its DICOM header cannot be read: {error}"
        raise ImageFileError("unreadable", what, path, COPY_AGAIN) from error


def is_deidentified(dataset: Dataset) -> bool:
    """Whether a file says that its identity was removed, and no name, be it a doctor's, or birth date contradicts it.

    Such a file, as public collections have them, is taken as it is: their annotations name its UIDs.
    """
    people = Identities()
    people.add(dataset)
    name, patient_id = str(dataset.get("PatientName") or ""), str(dataset.get("PatientID") or "")
    removed = str(dataset.get("PatientIdentityRemoved", "")).upper() == "YES"
    others = people.names - {split_name(patient_id)}
    return removed and name in ("", patient_id) and not others and not dataset.get("PatientBirthDate")


def salt_mark(dataset: Dataset) -> str:
    """Mark of the salt by which `deidentify` made a file; "" for another one."""
    method = dataset.get("DeidentificationMethod") or ""
    return str(method).partition(METHOD)[2]


def why_not_admitted(dataset: Dataset) -> str:
    """Why a file cannot be freed of what identifies a person; "" when it can."""
    modality = str(dataset.get("Modality", "unknown"))
    if modality not in ADMITTED:
        return f"modality {modality} (its text or pixels may name the patient)"
    if str(dataset.get("SOPClassUID", "")).startswith(SECONDARY_CAPTURE):
        return "a screenshot (secondary capture)"
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
        return "text is burned into its pixels"
    return ""


def deidentify(path: Path, pseudonyms: Pseudonyms, clean_text: Callable[[str], str] = str) -> bytes:
    """Removes from a DICOM file what identifies a person.

    Args:
        path: The file; its pixel data stay byte by byte.
        pseudonyms: Stand-ins for PatientID and UIDs, and the days by which dates move.
        clean_text: Applied to the texts that stay.

    Returns:
        The file anew; the same input and salt give the same bytes. Its patient's name is the pseudonym too.

    Raises:
        ImageFileError: The file is damaged, or lacks what every DICOM file has.
    """
    try:
        dataset = pydicom.dcmread(BytesIO(read_contents(path)))
        patient_id = str(dataset.get("PatientID") or "") or str(dataset.get("StudyInstanceUID", ""))
        meta = _build_meta(dataset, pseudonyms)
        _Cleaner(pseudonyms, pseudonyms.days(patient_id), clean_text).clean(dataset)
        for name in EMPTIED:
            setattr(dataset, name, "")
        _mark(dataset, pseudonyms.patient(patient_id), pseudonyms.mark)
        dataset.file_meta, dataset.preamble = meta, bytes(128)
        stream = BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
    except DAMAGED as error:
        what = f"the DICOM file cannot be freed of what identifies a person: {error}"
        raise ImageFileError("unreadable", what, path, "leave the file out, or export it again") from error
    return stream.getvalue()


def _build_meta(dataset: Dataset, pseudonyms: Pseudonyms) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = UID(pseudonyms.uid(str(dataset.SOPInstanceUID)))
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    meta.ImplementationVersionName = "SEGTRAIL"
    return meta


def _mark(dataset: Dataset, patient: str, salt: str) -> None:
    """Writes whose the file is now, and what was done to it."""
    dataset.PatientID = dataset.PatientName = patient
    if dataset.Modality == "RTSTRUCT":
        dataset.StructureSetLabel = "STRUCTURES"  # must not be empty
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = METHOD + salt
    dataset.DeidentificationMethodCodeSequence = Sequence(_code(*pair) for pair in METHOD_CODES)
    dataset.LongitudinalTemporalInformationModified = "MODIFIED"


class _Cleaner:
    """Takes out of a dataset, and of those in its sequences, what may not stay."""

    def __init__(self, pseudonyms: Pseudonyms, days: int, clean_text: Callable[[str], str]) -> None:
        self._pseudonyms = pseudonyms
        self._days = days
        self._clean_text = clean_text

    def clean(self, dataset: Dataset) -> None:
        for tag in list(dataset.keys()):
            if tag.group == PIXELS:
                continue
            element = dataset[tag]
            if not self._may_stay(element):
                del dataset[tag]
            elif element.VR == "SQ":
                for item in element.value:
                    self.clean(item)
            elif element.VR in ("UI", "DA", "DT", *TEXT):
                element.value = _each(element.value, self._replace(element.VR))

    def _may_stay(self, element: pydicom.DataElement) -> bool:
        if element.tag.is_private or element.tag.group not in GROUPS or element.keyword in GONE:
            return False
        if element.tag.group == 0x0040:
            return element.keyword in KEPT_OF_PROCEDURES
        return element.VR not in TEXT or element.keyword in KEPT

    def _replace(self, representation: str) -> Callable[[str], str]:
        if representation == "UI":
            return self._pseudonyms.uid
        if representation in ("DA", "DT"):
            return lambda text: shift_date(text, self._days)
        return self._clean_text


def shift_date(text: str, days: int) -> str:
    """Moves a date (YYYYMMDD, with or without a time behind it) back; what is no whole date becomes ""."""
    try:
        moved = date(int(text[:4]), int(text[4:6]), int(text[6:8])) - timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return f"{moved:%Y%m%d}{text[8:]}"


def _each(value: object, change: Callable[[str], str]) -> object:
    if value is None or value == "":
        return value
    if isinstance(value, pydicom.multival.MultiValue):
        return [change(str(item)) for item in value]
    return change(str(value))


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item
