"""Stage `predict`, and `segtrail predict`: test cases or any images through one `Predictor`."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prefect import flow

from flows.predict_settings import settings_as_scored
from flows.stage import map_cases, run_stage
from pipeline.bundle import Bundle, load_bundle
from pipeline.cases import CaseRecord, load_cases
from pipeline.config import PredictParams, load_params
from pipeline.devices import choose_device
from pipeline.errors import SegtrailError
from pipeline.io.images import (
    IMAGE_SUFFIXES,
    PICTURE_SUFFIXES,
    file_of,
    find_images,
    image_stem,
    image_suffix,
    is_colour_picture,
    is_series,
    load_label_map,
)
from pipeline.prediction import STATIONS, Predictor
from pipeline.progress import Progress, format_seconds
from pipeline.splits import load_splits

LOGGER = logging.getLogger("segtrail")
CHANNEL = re.compile(r"(.+)_(\d{4})")


@flow(name="predict")
def predict_flow(model: str) -> None:
    """Predicts the test cases into `data/predictions/<model>/`.

    Args:
        model: One of `params.models`.
    """
    sides = load_splits(Path("data/splits/splits.csv"))
    cases = [c for c in load_cases(Path("data/inspected/cases.csv")) if sides.get(c.case_id) == "test"]
    bundle = load_bundle(Path("data/models") / model)
    device = choose_device(os.environ.get("SEGTRAIL_DEVICES", "auto"))
    predictor = Predictor(bundle, load_params().predict, device, {"name": model})
    output = Path("data/predictions") / model
    temporary = output.with_name(output.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)

    def work(case: CaseRecord) -> None:
        predictor.predict_files([Path(path) for path in case.images], temporary, case.case_id, timed=False)

    # One case is computed at a time; the network already uses every core.
    map_cases(work, cases, f"predict {model}", lambda case: case.case_id, workers=STATIONS)
    shutil.rmtree(output, ignore_errors=True)
    temporary.replace(output)


def predict_inputs(
    inputs: list[Path], output: Path, model: str, devices: str, dicom_seg: bool = False
) -> int:
    """Predicts files and folders; one bad input does not stop the others.

    Args:
        inputs: Image files of every format (of HDF5 `file.h5#name`), folders of them, and folders of a DICOM series.
            `CASE_0000.nii.gz`, `CASE_0001.nii.gz`, ... are channels; a picture in colours holds all of its own.
        output: Folder for the results; created.
        model: A bundle's folder, or NAME@ALIAS or NAME@VERSION of the registry.
        devices: See `pipeline.devices.parse_devices`.
        dicom_seg: Write a DICOM segmentation of each case too; what is no DICOM series is then an error.

    Returns:
        Exit code: 0 only if every input was predicted.
    """
    bundle, identity, settings = resolve_model(model)
    cases, errors = group_inputs(inputs, len(bundle.metadata.plan.channels), output)
    if dicom_seg:
        errors += _take_out_others(cases)
    predictor = Predictor(bundle, settings, choose_device(devices), identity)
    output.mkdir(parents=True, exist_ok=True)
    progress = Progress("predict", len(cases))

    def work(case: tuple[str, list[Path]]) -> dict[str, Any] | SegtrailError:
        try:
            (output / f"{case[0]}_seg.dcm").unlink(missing_ok=True)
            record = predictor.predict_files(case[1], output, case[0])
            if dicom_seg:
                _save_segmentation(case[0], case[1][0], output, bundle, identity)
            return record
        except SegtrailError as error:
            return error

    with ThreadPoolExecutor(STATIONS) as pool:
        ordered = sorted(cases.items())
        try:
            for (case_id, _), result in zip(ordered, pool.map(work, ordered), strict=True):
                if isinstance(result, SegtrailError):
                    errors.append(result)
                    progress.step(f"{case_id} FAILED")
                else:
                    progress.step(f"{case_id}: {_summarize(result)}")
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C no further case begins
    for problem in errors:
        sys.stderr.write(f"\nsegtrail: error: {problem}\n")
    return 1 if errors else 0


def _take_out_others(cases: dict[str, list[Path]]) -> list[SegtrailError]:
    """Drops the cases that are no DICOM series, with an error each."""
    others = [case_id for case_id, paths in cases.items() if len(paths) > 1 or not is_series(paths[0])]
    fix = "give folders of DICOM series, or leave --dicom-seg out"
    what = "a DICOM segmentation refers to a DICOM series, this is none"
    return [SegtrailError(what, str(cases.pop(case_id)[0]), fix) for case_id in others]


def _save_segmentation(
    case_id: str, series: Path, output: Path, bundle: Bundle, identity: dict[str, str]
) -> None:
    """Writes `<case_id>_seg.dcm` of the label map that has just been written."""
    from pipeline.io.dicom_seg_writing import save_segmentation

    plan = bundle.metadata.plan
    names = {value: name for value, name in zip(plan.label_values, plan.label_names, strict=True) if value}
    label_map = load_label_map(output / f"{case_id}_labels.nii.gz")
    version = identity.get("version") or bundle.sha256[:12]
    save_segmentation(label_map, names, series, output / f"{case_id}_seg.dcm", identity["name"], version)


def _summarize(record: dict[str, Any]) -> str:
    """Volumes (areas) of the classes, and the time, for a progress line."""
    volumes = ", ".join(
        f"{name} {value:.0f} {size.partition('_')[2]}"
        for name, sizes in record["labels"].items()
        for size, value in sizes.items()
        if size != "voxels"
    )
    return f"{volumes} in {format_seconds(record['seconds'])}"


def resolve_model(model: str) -> tuple[Bundle, dict[str, str], PredictParams]:
    """Finds a bundle by folder, NAME@ALIAS or NAME@VERSION.

    Returns:
        The bundle, what it is called, and how it predicts: a registered version as it was scored, a bare
        folder as `params.yaml` says now.
    """
    if Path(model).is_dir():
        return load_bundle(Path(model)), {"name": Path(model).name}, load_params().predict
    name, separator, version = model.partition("@")
    if not separator:
        raise SegtrailError(
            f"{model!r} is neither a folder nor NAME@ALIAS", "--model", "for example phantom@champion"
        )
    from flows.tracking import find_bundle

    folder, number, predict = find_bundle(name, version)
    settings = settings_as_scored(predict, load_params().predict, f"{name}, version {number}")
    return load_bundle(folder), {"name": name, "version": number}, settings


def group_inputs(
    inputs: Iterable[Path], channels: int, output: Path
) -> tuple[dict[str, list[Path]], list[SegtrailError]]:
    """Finds the images in files and folders and groups channels into cases.

    Args:
        inputs: Files and folders.
        channels: Number of channels of the model.
        output: What lies in there is no input: a second run must not predict the first one's results.

    Returns:
        Files by case id, in channel order; and one error for each input that cannot be used.
    """
    files: list[Path] = []
    errors: list[SegtrailError] = []
    for path in inputs:
        try:
            files += _find_files(path, output)
        except SegtrailError as problem:
            errors.append(problem)
    cases: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        case_id, channel = _split_name(file, channels)
        if cases[case_id] and not channel:
            first = cases[case_id][0]
            errors.append(
                SegtrailError(f"two inputs are named {case_id}", f"{first} and {file}", "rename one")
            )
            continue
        cases[case_id].append(file)
    parted = [name for name, paths in cases.items() if len(paths) > 1 or _is_one_channel(paths[0], channels)]
    for case_id in parted:
        if error := _sort_channels(case_id, cases[case_id], channels):
            errors.append(error)
            del cases[case_id]
    return dict(cases), errors


def _find_files(path: Path, output: Path) -> list[Path]:
    """Images that an input stands for; a DICOM series is the folder of its slices."""
    if path.is_dir():
        own = output.resolve()
        found = [image for image in find_images(path) if own not in image.resolve().parents]
        if not found:
            fix = f"give files ending in {', '.join(IMAGE_SUFFIXES)}, or folders of DICOM slices"
            raise SegtrailError("no image in this folder", str(path), fix)
        return found
    if not file_of(path).exists():
        raise SegtrailError("there is no such file", str(path), "check the path")
    if not image_suffix(path):
        fix = "give the folder of a DICOM series; convert other formats to .nii.gz"
        raise SegtrailError(f"{path.suffix or 'this'} is no image suffix", str(path), fix)
    return [path]


def _split_name(path: Path, channels: int) -> tuple[str, str]:
    """Case and channel ("0000"...) of a file; "" for one that holds a whole case."""
    stem = image_stem(path)
    numbered = CHANNEL.fullmatch(stem) if channels > 1 and path.is_file() else None
    if numbered is None or is_colour_picture(path):
        return stem, ""
    return numbered[1], numbered[2]


def _is_one_channel(path: Path, channels: int) -> bool:
    """Whether a picture is numbered as a channel: alone it would pass for a grey picture of all colours."""
    return image_suffix(path) in PICTURE_SUFFIXES and bool(_split_name(path, channels)[1])


def _sort_channels(case_id: str, paths: list[Path], channels: int) -> SegtrailError | None:
    """Brings the files of a case into the order of the channels; says what is wrong if they are not all there."""
    paths.sort(key=lambda path: path.name)
    wanted = [f"{index:04d}" for index in range(channels)]
    seen = [_split_name(path, channels)[1] or path.name for path in paths]
    if seen == wanted and len({path.parent for path in paths}) == 1:
        return None
    return SegtrailError(
        f"channels {', '.join(seen)}, expected {', '.join(wanted)} in one folder",
        f"{case_id}: {', '.join(map(str, paths))}",
        "give each channel once",
    )


if __name__ == "__main__":
    run_stage(predict_flow, sys.argv[1])
