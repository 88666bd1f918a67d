"""Where to compute: one option for CPU, one GPU, or several."""

from __future__ import annotations

from typing import Any, Literal

import torch

from pipeline.errors import SegtrailError

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def parse_devices(text: str) -> dict[str, Any]:
    """Lightning's accelerator and devices from one option.

    Args:
        text: "auto" (one GPU if there is one, else CPU), "cpu", "cpu:2" (two CPU processes), or GPU
            numbers such as "0" or "0,1".

    Raises:
        SegtrailError: The text is none of these, or the GPU is not there.
    """
    if text == "auto":
        return {"accelerator": "gpu" if torch.cuda.is_available() else "cpu", "devices": 1}
    if text == "cpu" or text.startswith("cpu:"):
        count = text.partition(":")[2] or "1"
        if count.isdigit() and int(count) > 0:
            return {"accelerator": "cpu", "devices": int(count)}
    numbers = text.split(",")
    if all(n.isdigit() for n in numbers):
        missing = [n for n in numbers if int(n) >= torch.cuda.device_count()]
        if not missing:
            return {"accelerator": "gpu", "devices": [int(n) for n in numbers]}
        raise SegtrailError(
            f"GPU {', '.join(missing)} is not there: {torch.cuda.device_count()} GPU(s) found",
            "--devices / SEGTRAIL_DEVICES",
            "segtrail doctor lists the devices",
        )
    raise SegtrailError(
        f"{text!r} names no device", "--devices / SEGTRAIL_DEVICES", "use auto, cpu, cpu:2, 0 or 0,1"
    )


def choose_device(text: str) -> torch.device:
    """The one device of a prediction: "auto" takes a GPU if there is one; "cpu"; or a GPU's number."""
    hardware = parse_devices(text)
    if hardware["accelerator"] == "cpu":
        return torch.device("cpu")
    first = hardware["devices"][0] if isinstance(hardware["devices"], list) else 0
    return torch.device("cuda", first)


def choose_precision(wanted: Literal["auto"] | Precision, accelerator: str) -> Precision:
    """Lightning's precision; "auto" takes 16 bits only where the processor is fast at them.

    On a GPU from before 2020 (compute capability below 8.0) float16 is the fast kind. On a CPU bfloat16 takes
    instructions of its own; with those of AVX-512 a step was seen to take half the time, but on an Intel processor
    without AMX half as much again (`benchmarks/README.md`). By the kind of processor and not by a clock, so that a
    training goes on as it began.

    Args:
        wanted: `train.<model>.precision`.
        accelerator: "cpu" or "gpu".
    """
    if wanted != "auto":
        return wanted
    if accelerator == "gpu":
        return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "16-mixed"
    able = torch.cpu.get_capabilities()
    intel = str(able.get("cpu_name", "")).startswith("Intel")
    fast = able.get("amx_bf16") or (able.get("avx512_bf16") and not intel)
    return "bf16-mixed" if fast else "32-true"
