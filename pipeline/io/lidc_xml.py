"""The readers' contours of LIDC-IDRI as their XML files hold them (LidcReadMessage).

Source: Armato et al., The Lung Image Database Consortium, Medical Physics 38:915-931 (2011).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ImageFileError
from pipeline.io.stored import read_contents

ROOT = "LidcReadMessage"  # the X-rays of the collection have an IdriReadMessage
FIX = "download the XML file again, or remove its series"


@dataclass(frozen=True)
class Contour:
    """One outline (`roi`) in one slice, or a single point.

    Attributes:
        slice_uid: SOP Instance UID of the slice, "" when the file has none.
        z_mm: Position of the slice, LPS (and so RAS) z.
        included: Whether the inside belongs to the nodule; otherwise it is a hole.
        points: (n, 2) column and row of the edge's pixels, from 0.
    """

    slice_uid: str
    z_mm: float
    included: bool
    points: NDArray[np.int64]


@dataclass(frozen=True)
class Mark:
    """What one reader marked as one nodule, or as something else.

    Attributes:
        reader: From 0.
        name: As the reader called it.
        contours: Slice by slice; a nodule under 3 mm and a non-nodule have a single point.
    """

    reader: int
    name: str
    contours: tuple[Contour, ...]


@dataclass(frozen=True)
class Reading:
    """One XML file.

    Attributes:
        series_uid: Series Instance UID of the scan.
        marks: Of all readers.
        readers: Their number; who marked nothing counts too.
    """

    series_uid: str
    marks: tuple[Mark, ...]
    readers: int


def load_reading(path: Path) -> Reading | None:
    """Reads an XML file.

    Returns:
        None when it is XML of another kind.

    Raises:
        ImageFileError: The file is missing or malformed, or a contour in it makes no sense.
    """
    contents = read_contents(path)
    try:
        root = ElementTree.fromstring(contents)  # no external entities; expat bounds the expansion of others
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: unknown encodings
        raise ImageFileError("xml_malformed", f"the XML is malformed: {error}", path, FIX) from error
    if _tag(root) != ROOT:
        return None
    try:
        sessions = root.findall("{*}readingSession")
        marks = [mark for reader, session in enumerate(sessions) for mark in _marks(session, reader)]
        return Reading(_text(root, "{*}ResponseHeader/{*}SeriesInstanceUid"), tuple(marks), len(sessions))
    except (ValueError, LookupError, OverflowError) as error:
        raise ImageFileError("xml_malformed", f"the XML makes no sense: {error}", path, FIX) from error


def _marks(session: ElementTree.Element, reader: int) -> list[Mark]:
    marks = []
    for nodule in session.findall("{*}unblindedReadNodule"):
        contours = tuple(_contour(roi, "{*}edgeMap") for roi in nodule.findall("{*}roi"))
        marks.append(Mark(reader, _text(nodule, "{*}noduleID"), contours))
    for other in session.findall("{*}nonNodule"):
        marks.append(Mark(reader, _text(other, "{*}nonNoduleID"), (_contour(other, "{*}locus"),)))
    return marks


def _contour(element: ElementTree.Element, points: str) -> Contour:
    pairs = [(_text(point, "{*}xCoord"), _text(point, "{*}yCoord")) for point in element.findall(points)]
    if not pairs:
        raise ValueError("a contour has no point")
    z_mm = float(_text(element, "{*}imageZposition"))
    if not math.isfinite(z_mm):
        raise ValueError(f"a contour lies at z = {z_mm} mm")
    slice_uid = element.find("{*}imageSOP_UID")
    included = element.find("{*}inclusion")
    return Contour(
        slice_uid="" if slice_uid is None else (slice_uid.text or "").strip(),
        z_mm=z_mm,
        included=included is None or (included.text or "").strip().upper() != "FALSE",
        points=np.array([[int(x), int(y)] for x, y in pairs], np.int64),
    )


def _text(element: ElementTree.Element, name: str) -> str:
    found = element.find(name)
    if found is None or not (found.text or "").strip():
        raise LookupError(f"{_tag(element)} has no {name.replace('{*}', '')}")
    return (found.text or "").strip()


def _tag(element: ElementTree.Element) -> str:
    """Name of an element without its namespace."""
    return str(element.tag).rpartition("}")[2]
