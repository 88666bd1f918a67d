"""`segtrail data draft`: a model's label maps for a person to correct, each with its image and a record."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from flows.predict import group_inputs, resolve_model
from pipeline.bundle import Bundle
from pipeline.config import load_params
from pipeline.devices import choose_device
from pipeline.drafts import (
    RECORD,
    Draft,
    copy_images,
    hash_bytes,
    hash_images,
    is_changed,
    load_drafts,
    save_draft,
)
from pipeline.errors import SegtrailError, unknown_name
from pipeline.io.image_names import file_of
from pipeline.io.images import is_series, prediction_suffix
from pipeline.io.sources import RawDataset, open_dataset
from pipeline.prediction import Predictor
from pipeline.progress import Progress

LOGGER = logging.getLogger("segtrail")
PARTIAL = ".partial"


def draft_cases(inputs: Sequence[str], output: Path, model: str, devices: str) -> int:
    """Drafts label maps; one bad case does not stop the others, and a corrected draft is never overwritten.

    Args:
        inputs: Case ids of the data set, or images and folders of them; none = the cases without a label.
        output: Folder of the drafts; created.
        model: See `resolve_model`.
        devices: See `pipeline.devices.parse_devices`.

    Returns:
        Exit code: 0 only if every case was drafted.

    Raises:
        SegtrailError: There is nothing to draft, or the model has other classes than the data set.
    """
    params = load_params()
    dataset = open_dataset(Path("data/raw") / params.inspect.dataset, params.inspect.layout)
    record = Path("data/raw") / f"{params.inspect.dataset}.dvc"
    if not record.is_file():
        LOGGER.warning(
            "%s is not there: corrected drafts can only be accepted into a data set that segtrail data add has "
            "brought in (not into the phantom)", record
        )  # fmt: skip
    bundle, identity, settings = resolve_model(model)
    _require_known_labels(bundle, dataset)
    cases, errors = _find_cases(inputs, dataset, bundle, output)
    predictor = Predictor(bundle, settings, choose_device(devices), identity)
    output.mkdir(parents=True, exist_ok=True)
    waiting = {draft.case_id for draft in load_drafts(output)[0] if is_changed(draft, output)}
    known = {record.case_id for record in dataset.records}
    progress = Progress("draft", len(cases))
    for case_id, images in sorted(cases.items()):
        try:
            if case_id in waiting:
                raise SegtrailError(
                    "a corrected draft of this case waits here",
                    f"case {case_id}, {output}",
                    f"segtrail data accept {output}, or delete {case_id}{RECORD}",
                )
            _draft(predictor, case_id, images, output, params.inspect.dataset, case_id in known)
        except SegtrailError as error:
            errors.append(error)
        progress.step(case_id)
    for problem in errors:
        sys.stderr.write(f"\nsegtrail: error: {problem}\n")
    LOGGER.info("correct the files *_labels.* in %s, then: segtrail data accept %s", output, output)
    return 1 if errors else 0


def _require_nameless(case_id: str, images: Sequence[Path]) -> None:
    """Refuses a new case that is named after the patient of its DICOM series: the name would come into the data."""
    from pipeline.io.deidentify import is_deidentified, read_header
    from pipeline.io.dicom_files import find_files
    from pipeline.io.identities import Identities, Redactor
    from pipeline.io.pseudonyms import Pseudonyms

    people = Identities()
    for path in filter(is_series, images):
        header = read_header(find_files(path)[0])
        if header is not None and not is_deidentified(header):
            people.add(header)
    if people and Redactor(people, Pseudonyms(b"")).clean_name(case_id) != case_id:
        fix = "give the folder another name, or bring the series in by segtrail data add, which de-identifies it"
        raise SegtrailError("the new case is named after its patient", str(images[0]), fix)


def _draft(
    predictor: Predictor, case_id: str, images: Sequence[Path], output: Path, dataset: str, known: bool
) -> None:
    """Drafts one case; `known` says whether its images lie in the data set."""
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=output) as name:
        partial = Path(name)
        if not known:
            _require_nameless(case_id, images)
        copies = copy_images(case_id, images, partial)
        sha256, _ = hash_images(images if known else [partial / copy for copy in copies])
        predictor.predict_files(images, partial, case_id, timed=False)
        label = f"{case_id}_labels{prediction_suffix(images)}"
        plan, model = predictor.plan, predictor.identity
        draft = Draft(
            case_id=case_id,
            dataset=dataset,
            images=tuple(copies),
            image_sha256=sha256,
            label=label,
            draft_sha256=hash_bytes(partial / label),
            labels=dict(zip(plan.label_names, plan.label_values, strict=True)),
            model=model["name"],
            version=model.get("version", ""),
            bundle_sha256=model["bundle_sha256"],
            drafted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        save_draft(draft, partial, output)


def _find_cases(
    inputs: Sequence[str], dataset: RawDataset, bundle: Bundle, output: Path
) -> tuple[dict[str, list[Path]], list[SegtrailError]]:
    """Images by case id; and one error for each input that cannot be used."""
    records = {record.case_id: record for record in dataset.records}
    if not inputs:
        chosen = [name for name, r in records.items() if not r.label and name not in dataset.references]
        if not chosen:
            what = f"each of the {len(records)} cases of the data set has a label"
            raise SegtrailError(what, "segtrail data draft", "name cases, or images that are not in it yet")
    else:
        chosen = [text for text in inputs if text in records]
    cases = {name: [Path(path) for path in records[name].images] for name in chosen}
    errors: list[SegtrailError] = []
    others = [text for text in inputs if text not in records]
    for text in [text for text in others if not file_of(Path(text)).exists()]:
        errors.append(unknown_name("case or image", text, records, "segtrail data draft"))
        others.remove(text)
    found, wrong = group_inputs(map(Path, others), len(bundle.metadata.plan.channels), output)
    for name in found.keys() & records.keys():
        what = "the image has the name of a case of the data set"
        wrong.append(SegtrailError(what, f"{found.pop(name)[0]}", f"rename it, or give the case id {name}"))
    return cases | found, errors + wrong


def _require_known_labels(bundle: Bundle, dataset: RawDataset) -> None:
    plan = bundle.metadata.plan
    labels = dict(zip(plan.label_names, plan.label_values, strict=True))
    if labels != dataset.facts.labels:
        what = f"the model has the labels {labels}, the data set {dataset.facts.labels}"
        raise SegtrailError(what, "--model", "take a model that was trained on this data set")
