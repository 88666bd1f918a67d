"""Every data set of `../shared/data` that holds images: how it comes in, and its labels drawn on an image.

`python benchmarks/every_set.py [OUT]` inspects one labelled case of each set and draws a picture of each into OUT; of
the sets whose licence allows it also `docs/pictures/every-set.png`. `tests/test_every_set.py` brings all in whole.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from flows.overlay import overlaid
from flows.presets import load_preset
from pipeline.config import load_params
from pipeline.inspection import inspect_case
from pipeline.io.dataset import DatasetFacts
from pipeline.io.images import load_label_map, load_volume
from pipeline.io.sources import open_dataset
from pipeline.views import INK, PAPER, PICTURE, PLANES, draw_sides, grey_window, is_picture, picture_colours
from pipeline.volume import spacing_mm, to_canonical

SHEET = Path("docs/pictures/every-set.png")
COLUMNS, TILE_INCHES, DPI = 5, 2.3, 90
MOST_MM = 160.0  # of a volume's slice; a larger one is cut around the label
Row = dict[str, str]


@dataclass(frozen=True)
class RealSet:
    """One data set.

    Attributes:
        name: Of the picture.
        folder: Below `../shared/data`.
        preset: That it comes in by.
        verdicts: Number of cases by verdict.
        licence: Of the data.
        shown: Whether the licence lets its picture stand in this repository.
        labelled: Whether any case has a label.
        case: That is drawn; "" = the first one with an object.
        options: More for `segtrail data add`.
        describe: Gives the rows of `cases.csv` and the `dataset.json` of a set that is listed by a table.
    """

    name: str
    folder: str
    preset: str
    verdicts: dict[str, int]
    licence: str
    shown: bool = True
    labelled: bool = True
    case: str = ""
    options: tuple[str, ...] = ()
    describe: Callable[[Path], tuple[list[Row], dict[str, Any]]] | None = field(default=None, repr=False)


def row(case_id: str, patient_id: str, image: str, label: str, **more: str) -> Row:
    return {"case_id": case_id, "patient_id": patient_id, "image": image, "label": label, **more}


def facts(modality: str, labels: dict[str, int]) -> dict[str, Any]:
    return {"modality": {"0": modality}, "labels": {"background": 0, **labels}}


def organs(source: Path, modality: str) -> tuple[list[Row], dict[str, Any]]:
    """CT and MR number the organs differently: two sets. The slab is a part of the full scan: one patient."""
    folders = sorted(path.name for path in source.glob(f"{modality.lower()}_*"))
    labels: dict[str, int] = {}
    for name in folders:
        found = json.loads((source / name / "labels.json").read_text(encoding="utf-8"))
        labels |= {organ["name"]: int(value) for value, organ in found.items()}
    rows = [row(name, modality, f"{name}/image.nii.gz", f"{name}/label.nii.gz") for name in folders]
    return rows, facts(modality, labels)


def organs_ct(source: Path) -> tuple[list[Row], dict[str, Any]]:
    return organs(source, "CT")


def organs_mr(source: Path) -> tuple[list[Row], dict[str, Any]]:
    return organs(source, "MR")


def tumours(source: Path) -> tuple[list[Row], dict[str, Any]]:
    names = sorted(path.name.removesuffix("_image.nrrd") for path in source.glob("*_image.nrrd"))
    rows = [row(name, name, f"{name}_image.nrrd", f"{name}_label.nrrd") for name in names]
    return rows, facts("MRI", {"tumor": 1})


def nodules(source: Path) -> tuple[list[Row], dict[str, Any]]:
    """What any reader drew; white pixels are the nodule, so its value is 255."""
    unions = sorted((source / "mid_image_hu").glob("*_union.png"))
    rows = []
    for path in unions:
        case_id = path.name.removesuffix("_union.png")
        image = f"{path.parent.name}/{case_id}.png"
        rows.append(row(case_id, case_id.partition("_")[0], image, f"{path.parent.name}/{path.name}"))
    return rows, facts("CT patch", {"nodule": 255})


def lung_patches(source: Path) -> tuple[list[Row], dict[str, Any]]:
    """A stack in one HDF5 file; whose patch is whose is not known, so all count as one patient."""
    stack = "val_patches.h5"
    rows = [
        row(f"patch_{n:03d}", "unknown", f"{stack}#images[{n}]", f"{stack}#labels[{n}]") for n in range(130)
    ]
    return rows, facts("CT patch", {"tumor": 1})


def spine(source: Path) -> tuple[list[Row], dict[str, Any]]:
    """There is no image: the map of the classes stands for it."""
    values = (26, *range(41, 50), 60, 61, 62, 100)
    rows = []
    for name in ("ref", "pred"):
        classes, objects = f"semantic/{name}.nii.gz", f"unmatched_instance/{name}.nii.gz"
        rows.append(row(name, "spine", classes, classes, instances=objects))
    return rows, facts("classes", {f"class_{value}": value for value in values})


SETS = (
    RealSet("hippocampus", "Task04_Hippocampus", "hippocampus", {"ok": 220}, "CC BY-SA 4.0"),
    RealSet("nuclei", "dsb2018", "dsb2018", {"ok": 241, "warn": 3}, "CC0"),
    RealSet("LIDC-IDRI", "lidc_idri", "lidc", {"warn": 3}, "CC BY 3.0"),
    RealSet("LUNA16", "luna16", "luna16", {"ok": 1, "warn": 2}, "CC BY 3.0"),
    RealSet(
        "nodule patches", "lidc_nodule_patches", "table", {"ok": 70, "warn": 1}, "CC BY 3.0", describe=nodules
    ),
    RealSet("lung patches", "msd_lung_2mm_patches", "table", {"warn": 130}, "CC BY-SA 4.0", describe=lung_patches),
    RealSet("brain tumour 1 mm", "brats_style", "brats", {"ok": 1}, "CC BY 3.0"),
    RealSet("brain tumours 2 mm", "brats2015_2mm", "brats", {"ok": 4}, "CC BY-NC-SA 3.0", shown=False),
    RealSet("retina", "drive", "drive", {"ok": 7}, "research", shown=False),
    RealSet("organs in CT", "organs_ct_mr", "table", {"ok": 2}, "Apache 2.0", describe=organs_ct),
    RealSet("organs in MR", "organs_ct_mr", "table", {"ok": 1}, "Apache 2.0", describe=organs_mr),
    RealSet("heart, volumes", "acdc_h5", "acdc", {"warn": 10}, "research", shown=False),
    RealSet("heart, slices", "sunnybrook_lv", "sunnybrook", {"ok": 65, "warn": 1}, "CC0"),
    RealSet("membranes", "isbi2012_em", "isbi_em", {"ok": 20}, "research", shown=False),
    RealSet(
        "DICOM-SEG, RTSTRUCT", "dicom_seg_rtstruct", "dicom", {"warn": 8}, "BSD-3, MIT",
        case="99000_234301", options=("--keep-identity",),
    ),
    RealSet("DICOM series", "hippocrop_dicom", "dicom", {"ok": 3}, "TCIA", labelled=False),
    RealSet("tumours in NRRD", "radiomics_nrrd", "table", {"ok": 2}, "BSD-3 (TCIA)", describe=tumours),
    RealSet("spine", "spine_instances", "table", {"warn": 2}, "Apache 2.0", describe=spine),
)  # fmt: skip


def write_tables(real: RealSet, source: Path, folder: Path) -> list[Path]:
    """Writes what `segtrail data add --also` takes for a set that is listed by a table."""
    if real.describe is None:
        return []
    rows, dataset = real.describe(source)
    table, described = folder / "cases.csv", folder / "dataset.json"
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    described.write_text(json.dumps({"name": real.name, **dataset}), encoding="utf-8")
    return [table, described]


def draw_case(axes: Axes, images: Iterable[str], label: str, labels: dict[str, int], title: str) -> None:
    """Draws the slice with most labelled voxels; each class has a colour, in the plane of the finest voxels."""
    volume, label_map = load_volume([Path(name) for name in images]), load_label_map(Path(label))
    if is_picture(volume):
        (image, window), drawn, spacing, plane = (
            picture_colours(volume),
            label_map.array,
            (1.0, 1.0, 1.0),
            PICTURE,
        )
    else:
        image, affine = to_canonical(volume.array[0], volume.affine)
        drawn, spacing = to_canonical(label_map.array, label_map.affine)[0], spacing_mm(affine)
        thickest = 2 if spacing[2] >= 0.99 * max(spacing) else int(np.argmax(spacing))
        plane = next(p for p in PLANES if thickest not in (p.horizontal, p.vertical))
        window = grey_window(image)
    across, up = plane.horizontal, plane.vertical
    position = int(np.argmax((drawn > 0).sum(axis=(across, up))))
    shown, classes = plane.cut(image, position), plane.cut(drawn, position)
    rows, columns = classes.shape
    extent = (0, columns * spacing[across], rows * spacing[up], 0)
    axes.imshow(shown, cmap="gray", vmin=window[0], vmax=window[1], extent=extent, interpolation="nearest")
    colours = colormaps["tab10" if len(labels) < 11 else "tab20"]
    for index, value in enumerate(value for value in labels.values() if value):
        mask = classes == value
        if mask.any():
            layer = np.zeros((*mask.shape, 4))
            layer[mask] = (*colours(index % colours.N)[:3], 0.45)
            axes.imshow(layer, extent=extent, interpolation="nearest")
    _cut(axes, classes > 0, extent, plane is PICTURE)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, color=INK, fontsize=8, pad=3)
    draw_sides(axes, plane)


def _cut(axes: Axes, mask: np.ndarray[Any, Any], extent: tuple[float, ...], picture: bool) -> None:
    """Of a large slice of a volume only what lies around the label is shown."""
    if picture or not mask.any():
        return
    for limit, size, places in (
        (axes.set_xlim, extent[1], mask.any(0)),
        (axes.set_ylim, extent[2], mask.any(1)),
    ):
        hits = np.flatnonzero(places) * size / len(places)
        half = max(MOST_MM, 1.3 * (hits[-1] - hits[0])) / 2
        low, high = max(0.0, hits.mean() - half), min(size, hits.mean() + half)
        limit(*((low, high) if limit == axes.set_xlim else (high, low)))


def find_labelled(
    source: Path, layout: str, references: Path, case_id: str
) -> tuple[tuple[str, ...], str, DatasetFacts]:
    """Images and label of a case; of the first usable one that has objects when none is named."""
    dataset = open_dataset(source, layout)
    params = load_params().inspect
    for record in dataset.records:
        if case_id and record.case_id != case_id:
            continue
        case = inspect_case(record, dataset.facts, params, dataset.references.get(record.case_id), references)
        if case.objects and case.record.label:
            return case.record.images, case.record.label, dataset.facts
    raise ValueError(f"{source}: no case has an object")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, help="folder for a picture of each set")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    shown = [real for real in SETS if real.shown and real.labelled]
    lines = -(-len(shown) // COLUMNS)
    sheet = Figure(
        figsize=(COLUMNS * TILE_INCHES, lines * (TILE_INCHES + 0.2)), facecolor=PAPER, layout="constrained"
    )
    places = iter(sheet.subplots(lines, COLUMNS).flat)
    for real in (real for real in SETS if real.labelled):
        with tempfile.TemporaryDirectory() as name:
            folder, source = Path(name), options.data / real.folder
            also = write_tables(real, source, folder)
            with overlaid(source, also, folder / "links") as whole:
                layout = load_preset(real.preset).dataset.layout
                images, label, found = find_labelled(whole, layout, folder, real.case)
                if options.out is not None:
                    options.out.mkdir(parents=True, exist_ok=True)
                    single = Figure(figsize=(6, 6), facecolor=PAPER)
                    draw_case(single.subplots(), images, label, found.labels, real.name)
                    single.savefig(options.out / f"{real.name.replace(' ', '-')}.png", dpi=100)
                if real.shown:
                    draw_case(next(places), images, label, found.labels, real.name)
        print(f"{real.name}: {Path(images[0]).name}, classes {', '.join(list(found.labels)[1:6])}")
    for axes in places:
        axes.set_visible(False)
    sheet.savefig(SHEET, dpi=DPI)
    with Image.open(SHEET) as picture:
        picture.convert("RGB").quantize(256).save(SHEET, optimize=True)


if __name__ == "__main__":
    main()
