from __future__ import annotations

import pytest
import torch

from pipeline.devices import choose_device, choose_precision, parse_devices
from pipeline.errors import SegtrailError


@pytest.mark.parametrize(
    ("name", "flags", "wanted"),
    [
        ("AMD EPYC", ("avx512_bf16",), "bf16-mixed"),
        ("AMD EPYC", ("avx2",), "32-true"),
        ("Intel Xeon", ("avx512_bf16",), "32-true"),
        ("Intel Xeon", ("avx512_bf16", "amx_bf16"), "bf16-mixed"),
        (None, ("avx512_bf16",), "bf16-mixed"),
    ],
)
def test_a_cpu_trains_in_16_bits_only_if_it_is_fast_at_them(
    monkeypatch: pytest.MonkeyPatch, name: str | None, flags: tuple[str, ...], wanted: str
) -> None:
    able: dict[str, object] = dict.fromkeys(flags, True)
    if name:
        able["cpu_name"] = name
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert choose_precision("auto", "cpu") == wanted


def test_this_processor_has_what_the_choice_asks_for() -> None:
    able = torch.cpu.get_capabilities()
    if able.get("architecture") != "x86_64":
        pytest.skip("asks about x86 processors")
    assert isinstance(able["avx512_bf16"], bool)
    assert isinstance(able["amx_bf16"], bool)
    assert isinstance(able["cpu_name"], str)


@pytest.mark.parametrize(
    ("capability", "wanted"), [((7, 5), "16-mixed"), ((8, 0), "bf16-mixed"), ((9, 0), "bf16-mixed")]
)
def test_a_gpu_trains_in_its_fast_kind_of_16_bits(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], wanted: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert choose_precision("auto", "gpu") == wanted


def test_a_wish_is_kept() -> None:
    assert choose_precision("16-mixed", "cpu") == "16-mixed"
    assert choose_precision("32-true", "gpu") == "32-true"


def test_devices_by_text() -> None:
    assert parse_devices("cpu") == {"accelerator": "cpu", "devices": 1}
    assert parse_devices("cpu:2") == {"accelerator": "cpu", "devices": 2}
    assert choose_device("cpu") == torch.device("cpu")
    for wrong in ("cpu:0", "cpu:x", "gpu", "", "0,"):
        with pytest.raises(SegtrailError, match="names no device"):
            parse_devices(wrong)
