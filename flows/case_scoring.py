"""One case of a model against its reference: what stage `evaluate` measures, and `register` of a former champion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.cases import CaseRecord
from pipeline.config import EvaluateParams
from pipeline.detection_cases import ClassObjects, ReferenceObjects, collect_objects
from pipeline.evaluation import CaseMetrics, evaluate_case
from pipeline.ignored_voxels import crop_prediction, find_ignored, hide_ignored
from pipeline.io.case_maps import load_instance_ids, load_reference
from pipeline.io.dataset import DatasetFacts
from pipeline.objects import ObjectRow, load_objects
from pipeline.prediction_files import PredictionFiles, load_prediction
from pipeline.volume import LabelMap


@dataclass(frozen=True)
class Scored:
    """What was measured in one case: overlaps, and the objects (none of a baseline)."""

    rows: list[CaseMetrics]
    objects: list[ClassObjects] = field(default_factory=list)


class CaseScorer:
    """Scores predictions of one model, one case at a time; threads may share it.

    Args:
        facts: Of the data set.
        params: Section `evaluate`.
        cases: The whole test set; it decides whether this is a set of pictures (see `collect_objects`).
        objects: Table of the reference objects.
    """

    def __init__(
        self, facts: DatasetFacts, params: EvaluateParams, cases: Sequence[CaseRecord], objects: Path
    ) -> None:
        self.facts, self.params = facts, params
        self.flat = all(case.shape[2:] == (1,) for case in cases)
        self._rows: dict[str, list[ObjectRow]] = {}
        for row in load_objects(objects):
            self._rows.setdefault(row.case_id, []).append(row)

    def score(self, case: CaseRecord, files: PredictionFiles) -> Scored:
        """Scores one case, its objects included.

        Raises:
            SegtrailError: A file cannot be read, or prediction and reference do not lie on one grid.
        """
        labels = self.facts.foreground
        prediction = load_prediction(files, labels)
        affine = prediction.label_map.affine  # of the image
        reference = load_reference(case, affine)
        rows = self.score_overlap(case, reference, prediction.label_map)
        ids = load_instance_ids(case, affine)
        ignored = find_ignored(reference, self.facts.ignore)
        maps = {"label": reference}
        if ids is not None:
            maps["ids"] = LabelMap(ids, affine)
        maps = hide_ignored(maps, ignored)
        truth = ReferenceObjects(
            maps["label"], maps["ids"].array if ids is not None else None, self._rows.get(case.case_id, [])
        )
        cropped = crop_prediction(prediction, ignored)
        found = collect_objects(truth, cropped, labels, case.case_id, case.patient_id, self.flat)
        return Scored(rows, found)

    def score_overlap(self, case: CaseRecord, reference: LabelMap, prediction: LabelMap) -> list[CaseMetrics]:
        """Overlaps and distances alone, of each region and class."""
        facts, tolerance = self.facts, self.params.surface_tolerance_mm
        return evaluate_case(
            reference, prediction, facts.foreground, tolerance, case.case_id, case.patient_id, facts.regions,
            facts.ignore,
        )  # fmt: skip
