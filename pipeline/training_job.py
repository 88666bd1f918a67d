"""A training as a record: what the process that trains needs to know, as one JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.store import LOWRES
from pipeline.train_params import InstanceTrainParams, SemanticTrainParams


class TrainingJob(BaseModel):
    """One network to train, or the finished folds of a cross-validation to be joined into one model.

    Attributes:
        model: Name of the model: of its section of `train`.
        params: `train.<model>`.
        plan: Path of `plan.json`.
        store: Folder of preprocessed cases; those on a coarser grid lie below it.
        training_cases, validation_cases: Case ids.
        scratch: Folder of checkpoints; kept until the training has finished.
        output: Folder that receives the bundle and `history.csv`.
        provenance: Goes into the bundle as it is.
        devices: "auto", "cpu", "cpu:2", "0", "0,1".
        workers: Loader processes; None = as many as the training chooses.
        fold: Number of this training among the folds, from 0.
        folds: How many there are; 1 without cross-validation.
        members: Outputs of all folds, in order: they are joined. Empty: a network is trained.
        parent: Folder of the bundle whose weights the training begins with, where it has folds those of its own one;
            None: random weights. What fits: `pipeline.warm_start`.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    params: SemanticTrainParams | InstanceTrainParams
    plan: Path
    store: Path
    training_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]
    scratch: Path
    output: Path
    provenance: dict[str, Any]
    devices: str = "auto"
    workers: int | None = None
    fold: int = 0
    folds: int = 1
    members: tuple[Path, ...] = ()
    parent: Path | None = None

    @property
    def is_cascade(self) -> bool:
        """Whether two networks are trained, one after the other."""
        return isinstance(self.params, SemanticTrainParams) and self.params.configuration == "cascade"

    @property
    def low_store(self) -> Path:
        """Cases on the coarser grid."""
        return self.store / LOWRES

    @property
    def network_store(self) -> Path:
        """Cases on the grid of the network, of a cascade that of its second one."""
        low = isinstance(self.params, SemanticTrainParams) and self.params.configuration == "lowres"
        return self.low_store if low else self.store

    @property
    def is_fold(self) -> bool:
        """Whether the network is one of several that will be joined."""
        return self.folds > 1 and not self.members

    @property
    def locked(self) -> Path:
        """The folder that no two processes may work in: that of the whole model."""
        return self.scratch.parent if self.is_fold else self.scratch
