"""Progress within one item."""

from __future__ import annotations

import logging

import pytest
import torch

from pipeline import progress
from pipeline.progress import PartProgress
from pipeline.windows import Setting, sum_windows


def test_a_case_that_takes_long_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "segtrail")
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def network(windows: torch.Tensor) -> torch.Tensor:
        now[0] += 25.0
        return windows.clone()

    image = torch.zeros(1, 16, 8, 8)
    setting = Setting(1, torch.float32, image.device, image.device)
    for _ in sum_windows(network, image, (4, 8, 8), 0.0, setting, tell=PartProgress("case_1: window")):
        pass
    # After 25 s nothing, after 50 s half, after 75 s nothing yet, and the end is told by the case itself.
    assert caplog.messages == ["case_1: window 2/4 (ETA 50 s)"]
