"""The readers' XML, read and refused."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline.errors import ImageFileError
from pipeline.io.lidc_xml import load_reading

XML = """<?xml version="1.0" encoding="UTF-8"?>
<LidcReadMessage xmlns="http://www.nih.gov">
<ResponseHeader><SeriesInstanceUid> 1.2.3 </SeriesInstanceUid></ResponseHeader>
<readingSession>
  <unblindedReadNodule><noduleID>A</noduleID>
    <roi><imageZposition>-12.5 </imageZposition><imageSOP_UID>9.8</imageSOP_UID><inclusion>TRUE</inclusion>
      <edgeMap><xCoord>3</xCoord><yCoord>4</yCoord></edgeMap><edgeMap><xCoord>5</xCoord><yCoord>6</yCoord></edgeMap>
    </roi>
    <roi><imageZposition>-15</imageZposition><inclusion>FALSE</inclusion>
      <edgeMap><xCoord>7</xCoord><yCoord>8</yCoord></edgeMap></roi>
  </unblindedReadNodule>
</readingSession>
<readingSession>
  <nonNodule><nonNoduleID>7</nonNoduleID><imageZposition>1</imageZposition><imageSOP_UID>9.9</imageSOP_UID>
    <locus><xCoord>1</xCoord><yCoord>2</yCoord></locus></nonNodule>
</readingSession>
</LidcReadMessage>
"""


def write(folder: Path, text: str = XML) -> Path:
    path = folder / "1.xml"
    path.write_text(text)
    return path


def test_a_reading_as_written(tmp_path: Path) -> None:
    reading = load_reading(write(tmp_path))
    assert reading is not None and reading.series_uid == "1.2.3"
    nodule, other = reading.marks
    assert (nodule.reader, nodule.name, other.reader, other.name) == (0, "A", 1, "7")
    first, hole = nodule.contours
    assert (first.slice_uid, first.z_mm, first.included) == ("9.8", -12.5, True)
    assert first.points.tolist() == [[3, 4], [5, 6]]
    assert (hole.slice_uid, hole.z_mm, hole.included) == ("", -15, False)
    assert other.contours[0].points.tolist() == [[1, 2]]


def test_xml_of_another_kind(tmp_path: Path) -> None:
    assert load_reading(write(tmp_path, XML.replace("LidcReadMessage", "IdriReadMessage"))) is None


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("</LidcReadMessage>", "", "malformed"),
        ('encoding="UTF-8"', 'encoding="klingon"', "malformed.*klingon"),
        ('encoding="UTF-8"', 'encoding="shift_jis"', "malformed.*multi-byte"),
        ("<xCoord>3</xCoord>", "<xCoord>99999999999999999999</xCoord>", "makes no sense"),
        ("<imageZposition>-12.5 ", "<imageZposition>nan", "makes no sense.*nan"),
        ("<xCoord>3</xCoord>", "<xCoord>three</xCoord>", "makes no sense.*three"),
        ("<xCoord>3</xCoord>", "", "edgeMap has no xCoord"),
        ("<imageZposition>-15</imageZposition>", "", "roi has no imageZposition"),
        (" 1.2.3 ", " ", "has no ResponseHeader/SeriesInstanceUid"),
        ("<locus><xCoord>1</xCoord><yCoord>2</yCoord></locus>", "", "a contour has no point"),
    ],
)
def test_a_malformed_file(tmp_path: Path, old: str, new: str, what: str) -> None:
    assert old in XML
    with pytest.raises(ImageFileError, match=what) as caught:
        load_reading(write(tmp_path, XML.replace(old, new, 1)))
    assert caught.value.code == "xml_malformed"
    assert caught.value.where.endswith("1.xml")


def test_real_files_hold_what_plain_counting_finds(shared_data: Path) -> None:
    for path in sorted((shared_data / "lidc_idri").rglob("*.xml")):
        reading = load_reading(path)
        assert reading is not None
        tags = [element.tag.partition("}")[2] for element in ElementTree.parse(path).iter()]
        contours = [contour for mark in reading.marks for contour in mark.contours]
        assert len(contours) == tags.count("roi") + tags.count("nonNodule")
        assert sum(len(c.points) for c in contours) == tags.count("edgeMap") + tags.count("locus")
        assert len({mark.reader for mark in reading.marks}) <= tags.count("readingSession") == 4
