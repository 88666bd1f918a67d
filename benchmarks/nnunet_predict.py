"""Runs in nnU-Net's environment: makes a model folder of given weights, or predicts a folder with it.

    python nnunet_predict.py build MODEL WEIGHTS.npz INPUT.npy OUTPUT.npy
    python nnunet_predict.py predict MODEL IMAGES OUTPUT

`build` writes `fold_0/checkpoint_final.pth` into MODEL, which holds `plans.json` and `dataset.json`, and what the
network answers to INPUT. WEIGHTS hold one array a parameter, numbered in the order of `parameters_in_order`.
`predict` prints the seconds from loading the model to the last written file; the imports are not in them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans


def parameters_in_order(network: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """Encoder from fine to deep, then the decoder from deep to fine: up-sampling, block, head of each stage."""
    encoder, decoder = network.encoder, network.decoder
    for stage in encoder.stages:
        yield from _block(stage[0])
    for up, stage, head in zip(decoder.transpconvs, decoder.stages, decoder.seg_layers, strict=True):
        yield from (up.weight, up.bias)
        yield from _block(stage)
        yield from (head.weight, head.bias)


def _block(block: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    for conv in block.convs:
        yield from (conv.conv.weight, conv.conv.bias, conv.norm.weight, conv.norm.bias)


def build(model: Path, weights: str, image: str, answer: str) -> None:
    plans = json.loads((model / "plans.json").read_text())
    dataset = json.loads((model / "dataset.json").read_text())
    what = plans["configurations"]["3d_fullres"]["architecture"]
    network = get_network_from_plans(
        what["network_class_name"],
        what["arch_kwargs"],
        what["_kw_requires_import"],
        len(dataset["channel_names"]),
        len(dataset["labels"]),
        deep_supervision=False,
    ).eval()
    arrays = np.load(weights)
    parameters = list(parameters_in_order(network))
    if len(parameters) != len(arrays):
        raise SystemExit(f"{len(arrays)} arrays for {len(parameters)} parameters")
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            parameter.copy_(torch.from_numpy(arrays[str(number)]))
        np.save(answer, network(torch.from_numpy(np.load(image))).numpy())
    (model / "fold_0").mkdir(exist_ok=True)
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": tuple(dataset["mirror_axes"]),
    }
    torch.save(checkpoint, model / "fold_0/checkpoint_final.pth")


def predict(model: str, images: str, output: str) -> None:
    started = time.monotonic()
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_mirroring=True,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(model, use_folds=(0,))
    predictor.predict_from_files(images, output)
    print(f"seconds {time.monotonic() - started:.3f}")


if __name__ == "__main__":
    if sys.argv[1] == "build":
        build(Path(sys.argv[2]), *sys.argv[3:6])
    else:
        predict(*sys.argv[2:5])
