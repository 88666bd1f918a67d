"""A slice with an invented patient in every place where one may stand."""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from pipeline.io.pseudonyms import Pseudonyms

KEYS = Pseudonyms(b"salt")
SECRETS = (b"Quillfeather", b"Ottoline", b"19610417", b"MRN-77123", b"Hospital of Nowhere", b"Dr. Grimble")


def write_named_slice(source: Path, path: Path) -> Path:
    """Copies a slice and names the patient in every place where one may stand."""
    dataset = pydicom.dcmread(source)
    dataset.PatientName, dataset.PatientID = "Quillfeather^Ottoline", "MRN-77123"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientAge = "19610417", "F", "058Y"
    dataset.InstitutionName, dataset.OperatorsName = "Hospital of Nowhere", "Dr. Grimble"
    dataset.StudyDescription = "MR of Ottoline Quillfeather"
    dataset.ImageComments, dataset.PatientComments = "born 19610417", "Quillfeather"
    dataset.AcquisitionDateTime = "20200119010313.000000"
    dataset.add_new((0x0009, 0x0010), "LO", "MAKER")
    dataset.add_new((0x0009, 0x1001), "LO", "Quillfeather")
    dataset.add_new((0x6000, 0x4000), "LT", "Quillfeather")
    request = Dataset()
    request.RequestingPhysician, request.RequestedProcedureDescription = "Dr. Grimble", "for Ottoline"
    dataset.RequestAttributesSequence = [request]
    reference = Dataset()
    reference.ReferencedSOPClassUID = dataset.SOPClassUID
    reference.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    reference.TextValue = "Quillfeather"
    dataset.SourceImageSequence = [reference]
    dataset.file_meta.SourceApplicationEntityTitle = "GRIMBLE"
    dataset.preamble = b"Quillfeather".ljust(128)
    dataset.save_as(path)
    return path
