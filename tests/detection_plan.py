"""A plan of windows for tests, with one class or two."""

from __future__ import annotations

from pipeline.plan import ChannelNormalization, DetectionPlan, Plan


def make_plan(
    window: tuple[int, int] = (64, 96),
    zoom: float = 1.0,
    slices: int = 1,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    classes: tuple[str, ...] = ("nucleus",),
    channels: int = 1,
    detections: int = 50,
) -> Plan:
    """A plan whose intensities stay as they are: the window 0 to 1 becomes 0 to 1."""
    return Plan(
        dataset="squares",
        channels=tuple(f"channel_{i}" for i in range(channels)),
        label_names=("background", *classes),
        label_values=(0, *(10 * (i + 1) for i in range(len(classes)))),
        dimensions=2 if slices == 1 else 3,
        spacing_mm=spacing_mm,
        patch_size=(32, 32, 1),
        batch_size=2,
        strides=((1, 1, 1), (2, 2, 1)),
        kernels=((3, 3, 1),) * 2,
        features=(4, 8),
        normalization=(ChannelNormalization(scheme="window", low=0.0, high=1.0),) * channels,
        reasons={},
        n_cases=4,
        detection=DetectionPlan(
            slices=slices,
            zoom=zoom,
            window=window,
            anchor_sizes=((8.0,), (16.0,), (32.0,), (64.0,)),
            anchor_ratios=(0.5, 1.0, 2.0),
            detections=detections,
        ),
    )
