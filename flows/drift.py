"""Do the cases that came since the champion was trained differ from those it knows? `drift.json` and a picture.

Reads the files of the champion's archived version and the present `data/inspected` (so inspect new cases first:
`dvc repro inspect`); no raw file of an old case is needed.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flows.archive import Version, list_versions
from flows.audit import Record
from flows.champion import find_champion
from flows.environment import STATE
from flows.model_files import DATA, save_json
from pipeline.cases import CaseRecord, load_cases, usable_cases
from pipeline.config import load_params
from pipeline.drift import FeatureDrift, compare_features
from pipeline.drift_features import (
    FINGERPRINTS,
    PREDICTED,
    Features,
    load_features,
    predicted_features,
    to_columns,
)
from pipeline.drift_report import format_table, say_result, say_too_few
from pipeline.errors import SegtrailError
from pipeline.nightly_params import DriftParams

LOGGER = logging.getLogger("segtrail")
INSPECTED = DATA / "inspected"
MOST_PREDICTED = 20  # new cases that the champion predicts, so that a night stays short
PICTURE = "drift.png"
NO_REFERENCE = "The champion's version keeps no fingerprints and its cases are gone: nothing was compared."
Columns = dict[str, list[float | None]]


@dataclass(frozen=True)
class Lot:
    """New cases that are compared together.

    Attributes:
        cases: At least one.
        found: One a feature; none when they were not compared.
        columns: Values of each feature.
    """

    cases: tuple[CaseRecord, ...]
    found: list[FeatureDrift]
    columns: Columns = field(default_factory=dict)

    @property
    def drifted(self) -> bool:
        """Whether any feature has."""
        return any(one.drifted for one in self.found)


def check_drift(folder: Path, arrived: Collection[str] | None = None) -> Record | None:
    """Compares the new cases with those of the champion, and writes `drift.json` and `drift.png` into a folder.

    New is a usable case whose files the champion's version does not hold (by sha256), so that a changed case is new
    and a renamed one is not. All new cases are compared, and the newest of them once more by themselves: a lot of
    another scanner must not go under in what came before it. The record is about the lot that drifted, else about
    all. At most 20 cases, the newest first, are predicted for predicted volumes and uncertainty; these are compared
    with the champion's predictions of its own test cases.

    Args:
        folder: Created.
        arrived: Ids of the newest cases; None: those that no version has been trained on.

    Returns:
        What `drift.json` holds; None without a champion or a new case. With fewer new cases than
        `nightly.drift.min_cases` its `features` are empty, and there is no picture.

    Raises:
        SegtrailError: The champion's files or `data/inspected` are missing or damaged.
    """
    params = load_params()
    champion = find_champion(params.register_.model_name)
    new = [] if champion is None else find_new_cases(champion)
    if champion is None or not new:
        return None
    reference, note = _load_reference(champion)
    lot, columns, sentence = _judge(champion, new, arrived, reference, params.nightly.drift)
    record: Record = {
        "champion": champion.bundle_sha256,
        "new_cases": [case.case_id for case in lot.cases],
        "reference_cases": len(reference),
        "drifted": lot.drifted,
        "features": [asdict(one) for one in lot.found],
        "sentence": sentence + (note if lot.found else ""),
        "picture": PICTURE if lot.found else "",
    }
    folder.mkdir(parents=True, exist_ok=True)
    if lot.found:
        from pipeline.drift_pictures import draw_drift  # Matplotlib takes a second

        draw_drift(lot.found, columns, lot.columns, folder / PICTURE)
    save_json(record, folder / "drift.json")
    return record


def _judge(
    champion: Version,
    new: Sequence[CaseRecord],
    arrived: Collection[str] | None,
    reference: dict[str, Features],
    limits: DriftParams,
) -> tuple[Lot, Columns, str]:
    """The lot that is reported, the values of the reference, and a sentence about them."""
    if len(new) < limits.min_cases:
        return Lot(tuple(new), []), {}, say_too_few(len(new), limits)
    if not reference:
        return Lot(tuple(new), []), {}, NO_REFERENCE
    split = _split(champion, new, arrived, limits.min_cases)
    columns, lots = _compare(champion, split, reference, limits)
    lot = next((one for one in lots if one.drifted), lots[0])
    return lot, columns, say_result(lot.found, len(lot.cases), len(new), len(reference))


def find_new_cases(champion: Version) -> list[CaseRecord]:
    """Usable cases of `data/inspected` whose files the champion's version does not hold."""
    known = {case.sha256 for case in load_cases(champion.files.cases)}
    return [case for case in usable_cases(load_cases(INSPECTED / "cases.csv")) if case.sha256 not in known]


def _load_reference(champion: Version) -> tuple[dict[str, Features], str]:
    """Features of the champion's usable cases, and a sentence about where they are from, if from elsewhere."""
    cases = usable_cases(load_cases(champion.files.cases))
    if champion.files.fingerprints.is_file():
        stored = load_features(champion.files.fingerprints)
        return {case.case_id: stored[case.case_id] for case in cases if case.case_id in stored}, ""
    present = {case.sha256: case.case_id for case in load_cases(INSPECTED / "cases.csv")}
    names = [present[case.sha256] for case in cases if case.sha256 in present]
    stored = load_features(INSPECTED / FINGERPRINTS)
    found = {name: stored[name] for name in names if name in stored}
    return found, (
        f" The champion's version keeps no fingerprints: those of its {len(found)} cases that are still here were "
        "taken."
    )


def _split(
    champion: Version, new: Sequence[CaseRecord], arrived: Collection[str] | None, fewest: int
) -> list[tuple[CaseRecord, ...]]:
    """All new cases, and the newest of them where they are enough to be compared and not all."""
    if arrived is None:
        last = list_versions(champion.name)[-1]
        arrived = {case.case_id for case in find_new_cases(last)}
    newest = tuple(case for case in new if case.case_id in arrived)
    return [tuple(new), newest] if fewest <= len(newest) < len(new) else [tuple(new)]


def _compare(
    champion: Version,
    lots: Sequence[tuple[CaseRecord, ...]],
    reference: dict[str, Features],
    limits: DriftParams,
) -> tuple[Columns, list[Lot]]:
    """Values of each feature of the reference, and every lot with what was found; predicted features come last."""
    stored = load_features(INSPECTED / FINGERPRINTS)
    columns, predicted = to_columns(reference), dict[str, Features]()
    table = champion.files.metrics / PREDICTED
    if table.is_file():
        columns |= to_columns(load_features(table))
        predicted = _predict(champion, lots)
    found = []
    for cases in lots:
        ids = [case.case_id for case in cases]
        own = to_columns({case_id: stored.get(case_id, {}) | predicted.get(case_id, {}) for case_id in ids})
        found.append(Lot(cases, compare_features(columns, own, limits, len(lots)), own))
    return columns, found


def _predict(champion: Version, lots: Sequence[tuple[CaseRecord, ...]]) -> dict[str, Features]:
    """Features of the champion's predictions; a case that cannot be predicted is left out, with a warning."""
    # Only where there is something to predict: torch takes seconds.
    from flows.rescoring import open_predictor

    newest = {case.sha256 for case in lots[-1]}
    # Among equals by hash: as good as by chance, and the same the next time.
    chosen = sorted(lots[0], key=lambda case: (case.sha256 not in newest, case.sha256))[:MOST_PREDICTED]
    predictor = open_predictor(champion, load_params().predict)
    found: dict[str, Features] = {}
    STATE.mkdir(parents=True, exist_ok=True)  # predictions of patients stay inside the project
    with tempfile.TemporaryDirectory(prefix="drift-", dir=STATE) as scratch:
        for case in chosen:
            try:
                images = [Path(path) for path in case.images]
                record = predictor.predict_files(images, Path(scratch), case.case_id, timed=False)
            except SegtrailError as error:
                LOGGER.warning("drift: %s", error)
                continue
            except MemoryError:
                fix = "free memory, or lower predict.memory_gb to what is free"
                raise SegtrailError("memory ran out", f"{case.case_id} ({images[0]})", fix) from None
            found[case.case_id] = predicted_features(record)
            for path in Path(scratch).iterdir():
                path.unlink()
    return found


def tell_drift(folder: Path) -> list[str]:
    """`segtrail drift`: compares, and gives the lines of the table with the sentence at the end."""
    record = check_drift(folder)
    if record is None:
        return ["Nothing to compare: there is no champion yet, or no new case since it was trained."]
    if not record["features"]:
        return [record["sentence"]]
    return [*format_table(record["features"]), record["sentence"], f"picture: {folder / record['picture']}"]
