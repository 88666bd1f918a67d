"""The page about a data set, `data/inspected/report.html`: every problem with its cases, numbers and pictures.

The page asks for nothing from outside and is a function of the cases: the same set gives the same bytes.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.cases import FIXED, OK, QUARANTINED, VERDICTS, WARN, Finding
from pipeline.finding_codes import find_code
from pipeline.findings import FileFacts
from pipeline.fingerprint import Fingerprint
from pipeline.histograms import histogram
from pipeline.inspected_case import PICTURES, InspectedCase
from pipeline.io.dataset import DatasetFacts
from pipeline.pages import render_page

MOST_ROWS = 50  # cases of a code that are listed
MOST_PICTURES = 6  # of a code
MOST_GRIDS = 6  # cases of a code whose files are listed
MOST_PICTURE_BYTES = 8_000_000  # of all pictures together
MOST_CHARTS = 8  # classes with a histogram of their own
COLOURS = {OK: "green", FIXED: "green", WARN: "amber", QUARANTINED: "red"}
AXES = ("R", "A", "S")


def render_inspection(
    results: Sequence[InspectedCase], facts: DatasetFacts, folder: Path, refusal: str = ""
) -> str:
    """Makes the page.

    Args:
        results: What `inspect_set` returned.
        facts: Of the data set.
        folder: With the folder of pictures, `pictures/<case_id>.png`.
        refusal: Why the set was refused; "" when it may be used.

    Returns:
        HTML; every text from a file is escaped.
    """
    ordered = sorted(results, key=lambda result: result.record.case_id)
    verdicts = Counter(result.record.verdict for result in ordered)
    return render_page(
        "inspection_template.html",
        style="inspection_style.css",
        facts=facts,
        refusal=refusal,
        colours=COLOURS,
        counts=[("cases", len(ordered)), *((name, verdicts[name]) for name in VERDICTS)],
        patients=len({result.record.patient_id for result in ordered}),
        sections=_sections(ordered, folder),
        charts=_charts([r.fingerprint for r in ordered if r.fingerprint and r.record.usable], facts),
    )


def _sections(results: Sequence[InspectedCase], folder: Path) -> list[dict[str, Any]]:
    """One a code: worst first, then by number of cases."""
    by_code: dict[str, list[tuple[InspectedCase, Finding]]] = {}
    for result in results:
        for finding in result.findings:
            by_code.setdefault(finding.code.partition(":")[0], []).append((result, finding))
    order = sorted(by_code, key=lambda c: (-_rank(by_code[c]), -len(by_code[c]), c))
    pictures = _Pictures(folder / PICTURES)
    return [_section(name, by_code[name], pictures) for name in order]


def _rank(found: Sequence[tuple[InspectedCase, Finding]]) -> int:
    return max(VERDICTS.index(finding.verdict) for _, finding in found)


def _section(
    name: str, found: Sequence[tuple[InspectedCase, Finding]], pictures: _Pictures
) -> dict[str, Any]:
    code = find_code(name)
    cases = list({result.record.case_id: result for result, _ in found}.values())
    drawn = [p for result in cases if (p := pictures.take(result.record.case_id, name))] if code.drawn else []
    with_files = [result for result in cases if result.files] if code.grids else []
    return {
        "name": name,
        "code": code,
        "verdict": VERDICTS[_rank(found)],
        "cases": len(cases),
        "rows": [(result.record, finding) for result, finding in found[:MOST_ROWS]],
        "more_rows": max(0, len(found) - MOST_ROWS),
        "pictures": drawn,
        "more_pictures": len(cases) - len(drawn) if code.drawn else 0,
        "grids": [(r.record.case_id, _file_rows(r.files)) for r in with_files[:MOST_GRIDS]],
        "more_grids": max(0, len(with_files) - MOST_GRIDS),
    }


class _Pictures:
    """Pictures that are left to show: each once, at most so many a code, and so many bytes in all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bytes = MOST_PICTURE_BYTES
        self._section: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def take(self, case_id: str, code: str) -> dict[str, str] | None:
        """Source of a case's picture; where it was shown already, the section; None when there is none to show."""
        if self._counts[code] >= MOST_PICTURES:
            return None
        if case_id in self._section:
            self._counts[code] += 1
            return {"case_id": case_id, "source": "", "section": self._section[case_id]}
        try:
            png = (self._folder / f"{case_id}.png").read_bytes()
        except OSError:
            return None
        if len(png) > self._bytes:
            return None
        self._bytes -= len(png)
        self._counts[code] += 1
        self._section[case_id] = code
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        return {"case_id": case_id, "source": source, "section": ""}


def _file_rows(files: Sequence[FileFacts]) -> list[dict[str, str]]:
    """Numbers of each file as text."""
    return [
        {
            "role": file.role,
            "bytes": "missing" if file.bytes < 0 else f"{file.bytes:,}".replace(",", "\u202f"),
            "type": file.dtype,
            "channels": str(file.shape[0]) if file.shape else "",
            "shape": " × ".join(map(str, file.shape[1:])),
            "spacing": " × ".join(f"{v:.5g}" for v in file.spacing_mm),
            "origin": ", ".join(f"{v:.5g}" for v in file.origin_mm),
            "orientation": file.orientation,
            "header": "; ".join(f"{name}: {value}" for name, value in file.header),
        }
        for file in files
    ]


def _charts(prints: Sequence[Fingerprint], facts: DatasetFacts) -> list[tuple[str, Markup]]:
    """Histograms over the usable cases: voxel size, shape, intensities and volumes."""
    charts: list[tuple[str, Markup]] = []

    def add(title: str, unit: str, of: Callable[[Fingerprint], float | None]) -> None:
        values = [value for print_ in prints if (value := of(print_)) is not None]
        if values:
            charts.append((title, histogram(values, f"{title} of {len(values)} cases", unit)))

    for axis, name in enumerate(AXES):
        add(f"Voxel size along {name}", "mm", lambda f, axis=axis: f.spacing_mm[axis])  # type: ignore[misc]
    for axis, name in enumerate(AXES):
        add(f"Shape along {name}", "voxels", lambda f, axis=axis: float(f.shape[axis]))  # type: ignore[misc]
    for index, name in enumerate(facts.channels[:MOST_CHARTS]):
        unit = "HU" if name.upper() == "CT" else "median"
        add(
            f"Median intensity of {name}, in the foreground",
            unit,
            lambda f, index=index: f.intensity[index].median if index < len(f.intensity) else None,  # type: ignore[misc]
        )
    for name in [name for name, value in facts.labels.items() if value][:MOST_CHARTS]:
        add(f"Volume of {name}", "mL", lambda f, name=name: _volume_ml(f, name))  # type: ignore[misc]
    return charts


def _volume_ml(fingerprint: Fingerprint, name: str) -> float | None:
    found = fingerprint.classes.get(name)
    return found.volume_mm3 / 1000 if found and found.voxels else None
