"""Finds text that may tell who a patient is, in names of files and in headers; what it says is never repeated.

Only headers are read, none of the voxels. A hit is a suspicion: whoever gets the remark must look.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.io.case_files import list_files
from pipeline.io.image_names import file_of

DATE = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d([-._/]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0[1-9]|[12]\d|3[01])([-._/])(?:0[1-9]|1[0-2])\2(?:19|20)\d\d)(?!\d)"
)
MARKED = re.compile(
    r"(?i)(patient[ _]?(?:s[ _])?name|surname|birth|\bdob\b|geb(?:urts|\.)|medical.?record|\bmrn\b)"
)
CARET = re.compile(r"[^\W\d_]{2,}\^+[^\W\d_]*")  # a person's name as DICOM writes it
PAIR = re.compile(r"(?<![^\W_])([A-Z][a-zäöüßéèáó]{2,})[_, -]{1,2}([A-Z][a-zäöüßéèáó]{2,})(?![^\W_])")
# Capitalised words that stand side by side in names of files and headers and are no names of persons.
TERMS = frozenset(
    """abdomen anterior aorta arterial artery axial baseline bladder body bone brain breast calcified case chest class
    colon contrast control coronal crop cropped data dataset derived diastole edge effusion enhancing female fibre
    final flair follow gland global gray green grey hand head heart hepatic high hippocampus image images implicit
    kidney label labels late left liver local lobe lower lung magnitude male mask masks matter mean median mono
    muscle myocardium necrosis nodule normal nucleus oedema original pancreas patient patients phase portal post
    posterior primary prostate raw red reference region registered resampled right sagittal scan secondary
    segmentation series sequence session siemens small smooth spine spleen stage study subject systole task test
    thin thorax time train transverse tumor tumour upper vein vessel volume weighted white explicit little endian
    big philips medical systems healthcare general electric version software nifti simple slicer tool toolkit motion
    corrected realigned smoothed bias field analysis format created with using time free surfer
    training batch testing validation challenge release folder annotations
    """.split()  # noqa: SIM905 (a hundred quoted words are no reading)
)
NOBODY = re.compile(
    r"(?i)^(?:anon|de-?id|remov|unknown|none|n/?a\b|x+$|test|phantom|case|subject|sub-|patient)"
)
NIFTI_BYTES, LINES_BYTES = 1 << 16, 1 << 14  # that a header and its extensions are looked for in
NIFTI_TEXTS = {"descrip": (148, 80), "aux_file": (228, 24), "intent_name": (328, 16), "db_name": (14, 18)}
NIFTI2_TEXTS = {"descrip": (240, 80), "aux_file": (320, 24), "intent_name": (508, 16)}
PERSON_TAGS = (
    "PatientName",
    "OtherPatientNames",
    "PatientBirthDate",
    "PatientAddress",
    "PatientTelephoneNumbers",
)
DICOM_NAMES, DICOM_DATES = "PN", "DA"


def is_identifying(text: str) -> bool:
    """Whether a text holds something like a date, a person's name, or a word that announces either."""
    words = text.replace("\0", " ")
    return bool(DATE.search(words) or MARKED.search(words) or CARET.search(words) or _is_pair(words))


def _is_pair(text: str) -> bool:
    """Two capitalised words side by side, such as family and given name, that are no terms of the field."""
    return any(not {word.lower() for word in pair} & TERMS for pair in PAIR.findall(text))


def find_identifying_text(images: Mapping[str, str], folder: Path) -> list[str]:
    """Where files of a case may tell who the patient is.

    Args:
        images: Path of each file, or folder of a DICOM series, by role; relative to the project.
        folder: Of the raw data set; only names below it are looked at.

    Returns:
        A phrase each, such as "header field descrip of the label"; never the text itself.
    """
    found = [f"name of the {role}" for role, path in images.items() if is_identifying(_below(path, folder))]
    for role, path in images.items():
        found += [f"{field} of the {role}" for field in _fields(Path(path))]
    return found


def _below(path: str, folder: Path) -> str:
    pure = PurePosixPath(path)
    inside = pure.relative_to(folder.as_posix()) if pure.is_relative_to(folder.as_posix()) else pure
    return "/".join(inside.parts)


def _fields(path: Path) -> Iterator[str]:
    """Names of the fields of a file's header that are suspicious; nothing for what cannot be read."""
    image, path = path, file_of(path)
    name = path.name.lower()
    if path.is_dir():
        yield from _dicom_fields(image)
    elif name.endswith((".nii", ".nii.gz", ".hdr")):
        yield from _suspicious("header field", _nifti_texts(_head(path, NIFTI_BYTES)))
    elif name.endswith((".mhd", ".mha", ".nrrd", ".nhdr")):
        yield from _suspicious("header field", _line_texts(_head(path, LINES_BYTES)))
    elif name.endswith((".png", ".tif", ".tiff", ".jpg", ".jpeg")):
        yield from _suspicious("tag", _picture_texts(path))


def _suspicious(kind: str, texts: Iterable[tuple[str, str]]) -> list[str]:
    return list(dict.fromkeys(f"{kind} {name}" for name, text in texts if is_identifying(text)))


def _head(path: Path, count: int) -> bytes:
    """The first bytes of a file, unpacked; what can be had of a damaged one."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(count)
        return zlib.decompressobj(31).decompress(raw, count) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, zlib.error):
        return b""


def _nifti_texts(raw: bytes) -> Iterator[tuple[str, str]]:
    """Text fields of a NIfTI header, and its extensions, which may hold a whole DICOM header."""
    first = raw[344:348] in (b"n+1\0", b"ni1\0")
    if not first and raw[4:7] not in (b"n+2", b"ni2"):
        return
    size, places = (348, NIFTI_TEXTS) if first else (540, NIFTI2_TEXTS)
    for name, (start, length) in places.items():
        yield name, raw[start : start + length].decode("latin-1")
    order = "<" if raw[:4] in (b"\x5c\x01\0\0", b"\x1c\x02\0\0") else ">"
    offset = size + 4
    if raw[size : size + 1] != b"\x01":
        return
    while offset + 8 <= len(raw):
        length, _ = struct.unpack(f"{order}ii", raw[offset : offset + 8])
        if length < 16 or length % 16:
            return
        yield "extension", raw[offset + 8 : offset + length].decode("latin-1")
        offset += length


def _line_texts(raw: bytes) -> Iterator[tuple[str, str]]:
    """Fields of a header of lines: MetaImage has `key = value`, NRRD `field: value` and `key:=value`."""
    for line in raw.split(b"\n\n")[0].splitlines()[:1000]:
        text = line.decode("latin-1")
        key, mark, value = text.partition(":=" if ":=" in text else "=" if "=" in text else ":")
        key = key.strip()
        if key in ("ElementDataFile", "data file", "datafile"):
            return  # a name of a file, looked at as such; what follows are voxels
        if mark and re.fullmatch(r"[\w .-]{1,40}", key):
            yield key, f"{key} {value}" if MARKED.search(key) and value.strip() else value


def _picture_texts(path: Path) -> Iterator[tuple[str, str]]:
    from PIL import ExifTags, Image

    try:
        with Image.open(path) as picture:
            texts = {str(key): str(value) for key, value in picture.info.items() if isinstance(value, str)}
            for number, value in picture.getexif().items():
                if isinstance(value, str) and number not in (ExifTags.Base.DateTime, ExifTags.Base.Software):
                    texts[ExifTags.TAGS.get(number, str(number))] = value
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        SyntaxError,
        struct.error,
        Image.DecompressionBombError,
    ):
        return  # damaged: its reader says so
    yield from texts.items()


def _dicom_fields(series: Path) -> Iterator[str]:
    """Tags of a series: names and dates of the first slice, and of every slice what names the person."""
    import pydicom

    from pipeline.io.dicom_files import DAMAGED

    counts: dict[str, int] = {}
    read = 0
    for path in (p for p in list_files(str(series)) if not p.name.startswith(".")):
        wanted: list[str] | None = [*PERSON_TAGS, "PatientID", "PatientIdentityRemoved"] if read else None
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=wanted)
            names = set(_person_tags(header))
        except DAMAGED:
            continue
        read += 1
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    for name, count in sorted(counts.items()):
        where = f"of {count} of {read} files" if name in PERSON_TAGS else "of the first file"
        yield f"DICOM tag {name} {where}"


def _person_tags(header: Any) -> Iterator[str]:
    """Keywords of tags with a name, and, unless the file says that it is de-identified, with a date."""
    removed = str(header.get("PatientIdentityRemoved", "")).upper() == "YES"
    for element in header:
        text = str(element.value or "").strip(" ^")
        name = element.keyword or f"({element.tag.group:04x},{element.tag.element:04x})"
        if not text or (element.VR not in (DICOM_NAMES, DICOM_DATES) and name not in PERSON_TAGS):
            continue
        if element.VR == DICOM_DATES and removed:
            continue
        anonymous = text == str(header.get("PatientID", "")).strip() or NOBODY.match(text)
        if element.VR != DICOM_NAMES or not anonymous:
            yield name
