"""Volumes, a briefly trained U-Net, and the same network in nnU-Net's terms, for `inference_speed.py`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import torch
from nnunet_peer import peer_environment, peer_python
from numpy.typing import NDArray
from torch.nn import functional

from pipeline.allocation import keep_freed_memory
from pipeline.bundle import load_bundle, save_bundle
from pipeline.models.networks import build_network
from pipeline.plan import Plan
from pipeline.preprocessing import prepare_label_map, prepare_volume
from pipeline.volume import LabelMap, Volume

FLIP_AXES = ("x", "y", "z")
LARGEST_DIFFERENCE = 1e-4  # of the logits of both


def write_ct(path: Path, shape: tuple[int, int, int], classes: int, seed: int) -> NDArray[np.uint8]:
    """Writes a CT of ellipsoids in a body, each class at its own density, and returns its labels.

    Args:
        path: NIfTI file; 1 mm, RAS.
        shape: Voxels along X, Y, Z.
        classes: Background (air and body) included.
        seed: Of places, sizes and noise.
    """
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    x, y = (np.linspace(-1, 1, n) for n in shape[:2])
    body = (x[:, None] / 0.85) ** 2 + (y / 0.65) ** 2 < 1
    image = np.where(body, np.int16(0), np.int16(-1000))[..., None].repeat(shape[2], axis=2)
    for index in range(1, classes):
        density = -300 + 900 * index // classes
        for _ in range(8):
            radius = random.uniform(0.04, 0.11, 3) * shape[0]
            centre = [n * random.uniform(0.25, 0.75) for n in shape]
            low = [max(0, int(c - r)) for c, r in zip(centre, radius, strict=True)]
            high = [min(n, int(c + r) + 1) for c, r, n in zip(centre, radius, shape, strict=True)]
            box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            grid = np.ogrid[box]
            inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True)) < 1
            labels[box][inside] = index
            image[box][inside] = density
    for z in range(shape[2]):  # a whole volume of random doubles would be four times the CT
        noise = random.standard_normal(shape[:2], np.float32) * 15
        image[:, :, z] += noise.astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), path)
    return labels


def train_bundle(
    folder: Path,
    plan: Plan,
    cases: Sequence[tuple[Volume, LabelMap]],
    steps: int,
    patch: tuple[int, int, int],
) -> Path:
    """Trains a U-Net for some steps of four patches, so that its labels mean something, and saves it."""
    arguments = {
        "channels": len(plan.channels), "classes": len(plan.label_names), "features": list(plan.features),
        "strides": [list(s) for s in plan.strides], "kernels": [list(k) for k in plan.kernels],
        "dimensions": 3,
    }  # fmt: skip
    keep_freed_memory()
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    network = build_network("unet", **arguments)
    pairs = [
        (prepare_volume(v, plan, "case"), torch.from_numpy(prepare_label_map(m, plan))) for v, m in cases
    ]
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        images, labels = zip(
            *(_draw(random, *pairs[random.integers(len(pairs))], patch) for _ in range(4)), strict=True
        )
        logits = network(torch.stack(images))
        truth = torch.stack(labels).long()
        chance = logits.softmax(1)
        target = functional.one_hot(truth, logits.shape[1]).movedim(-1, 1)
        overlap = 2 * (chance * target).sum((0, 2, 3, 4)) / (chance + target).sum((0, 2, 3, 4)).clamp(min=1)
        loss = functional.cross_entropy(logits, truth) - overlap[1:].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"trained {steps} steps, loss {loss.item():.3f}")
    folder.mkdir(parents=True)
    save_bundle(
        folder, network.state_dict(), model="unet", network="unet", network_arguments=arguments, plan=plan,
        params={"augmentation": {"flip_axes": FLIP_AXES}}, provenance={}, validation_metric="validation_dice",
        validation_score=None,
    )  # fmt: skip
    return folder


def _draw(
    random: np.random.Generator, image: torch.Tensor, label: torch.Tensor, patch: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A patch, half of the time about a foreground voxel; small images are padded with their lowest value."""
    missing = [max(0, p - n) for p, n in zip(patch, label.shape, strict=True)]
    widths = [w for m in reversed(missing) for w in (0, m)]
    image = functional.pad(image, widths, value=float(image.min()))
    label = functional.pad(label, widths)
    starts = [int(random.integers(n - p + 1)) for n, p in zip(label.shape, patch, strict=True)]
    cut = tuple(slice(s, s + p) for s, p in zip(starts, patch, strict=True))
    return image[(slice(None), *cut)], label[cut]


def build_peer(bundle_folder: Path, model: Path, mirror_axes: str) -> float:
    """Writes the same network as a model folder of nnU-Net; returns how far the logits of both are apart.

    nnU-Net reads arrays as Z, Y, X: kernels are turned. Its convolutions have a bias, which the normalisation
    takes away again: zeros.
    """
    bundle = load_bundle(bundle_folder)
    plan, network = bundle.metadata.plan, bundle.build(torch.device("cpu"))
    model.mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(_peer_plans(plan)))
    labels = dict(zip(plan.label_names, range(len(plan.label_names)), strict=True))
    dataset = {
        "channel_names": {"0": "CT" if plan.normalization[0].scheme == "ct" else "MRI"},
        "labels": labels,
        "numTraining": 1,
        "file_ending": ".nii.gz",
        "mirror_axes": sorted(2 - "xyz".index(axis) for axis in mirror_axes),
    }
    (model / "dataset.json").write_text(json.dumps(dataset))
    np.savez(model / "weights.npz", **{str(i): a for i, a in enumerate(_in_order(bundle.weights, plan))})
    image = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    np.save(model / "image.npy", image.permute(0, 1, 4, 3, 2).numpy())
    script = Path(__file__).with_name("nnunet_predict.py")
    files = [str(model / name) for name in ("weights.npz", "image.npy", "answer.npy")]
    subprocess.run(
        [str(peer_python()), str(script), "build", str(model), *files],
        env=peer_environment(model.parent / "nnunet"), check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    with torch.inference_mode():
        ours = network(image)
    theirs = torch.from_numpy(np.load(model / "answer.npy")).permute(0, 1, 4, 3, 2)
    difference = float((ours - theirs).abs().max())
    if difference > LARGEST_DIFFERENCE:
        raise SystemExit(f"the networks differ by {difference}")
    return difference


def _in_order(weights: dict[str, torch.Tensor], plan: Plan) -> list[NDArray[np.float32]]:
    """Parameters in the order of `nnunet_predict.parameters_in_order`."""

    def block(prefix: str) -> list[torch.Tensor]:
        found = []
        for conv, norm in ((0, 1), (3, 4)):
            kernel = weights[f"{prefix}.{conv}.weight"]
            found += [kernel, torch.zeros(len(kernel))]
            found += [weights[f"{prefix}.{norm}.weight"], weights[f"{prefix}.{norm}.bias"]]
        return found

    stages = len(plan.features)
    tensors = [tensor for stage in range(stages) for tensor in block(f"encoder.{stage}")]
    for stage in range(stages - 1):
        tensors += [weights[f"upsample.{stage}.weight"], weights[f"upsample.{stage}.bias"]]
        tensors += block(f"decoder.{stage}")
        tensors += [weights[f"heads.{stage}.weight"], weights[f"heads.{stage}.bias"]]
    return [(t.permute(0, 1, 4, 3, 2) if t.dim() == 5 else t).contiguous().numpy() for t in tensors]


def _peer_plans(plan: Plan) -> dict[str, object]:
    how = plan.normalization[0]
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    arguments = {
        "n_stages": len(plan.features), "features_per_stage": plan.features,
        "conv_op": "torch.nn.modules.conv.Conv3d", "kernel_sizes": [k[::-1] for k in plan.kernels],
        "strides": [s[::-1] for s in plan.strides], "n_conv_per_stage": [2] * len(plan.features),
        "n_conv_per_stage_decoder": [2] * (len(plan.features) - 1), "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    configuration: dict[str, object] = {
        "data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": plan.patch_size[::-1], "median_image_size_in_voxels": plan.patch_size[::-1],
        "spacing": plan.spacing_mm[::-1], "use_mask_for_norm": [False], "batch_dice": False,
        "normalization_schemes": ["CTNormalization" if how.scheme == "ct" else "ZScoreNormalization"],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": arguments, "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }  # fmt: skip
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        configuration[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        keys = {**resampling, "order": order, "is_seg": what == "seg"}
        configuration[f"resampling_fn_{what}_kwargs"] = keys
    intensities = {
        "mean": how.mean, "std": how.std, "percentile_00_5": how.low, "percentile_99_5": how.high,
        "min": how.low, "max": how.high, "median": how.mean,
    }  # fmt: skip
    return {
        "dataset_name": "Dataset905_Inference", "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": plan.spacing_mm[::-1],
        "original_median_shape_after_transp": plan.patch_size[::-1], "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "label_manager": "LabelManager",
        "configurations": {"3d_fullres": configuration}, "experiment_planner_used": "ExperimentPlanner",
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }  # fmt: skip
