"""The closing table of `evaluate`."""

from __future__ import annotations

from flows.evaluation_output import format_table

Numbers = dict[str, float | None]


def entry(key: str, value: float | None, low: float | None, high: float | None, n: int) -> Numbers:
    return {key: value, f"{key}_ci_low": low, f"{key}_ci_high": high, f"{key}_n": n}


def test_every_number_has_its_own_interval_and_count() -> None:
    numbers = (
        entry("test/organ/dice", 0.8124, 0.7, 0.9, 7)
        | entry("test/organ/hd95_mm", 4.256, 3.0, 5.5, 6)
        | entry("test/organ/mask_map_10_50", 0.5, None, None, 7)
        | entry("test/organ/cpm", None, None, None, 0)
        | {"test/cpm": None}
    )
    assert format_table(numbers, ["organ"]) == [
        "class  Dice                      HD95 mm                mask mAP .10:.50  CPM",
        "organ  0.812 [0.700, 0.900] n=7  4.26 [3.00, 5.50] n=6  0.500 n=7         -",
    ]


def test_table_of_several_classes_and_a_baseline() -> None:
    numbers: Numbers = {}
    for prefix in ("test/", "test/a/", "test/long name/", "baseline_otsu_lung/"):
        numbers |= entry(f"{prefix}dice", 0.3, 0.05, 0.9, 7) | entry(f"{prefix}hd95_mm", None, None, None, 0)
    numbers |= entry("test/mask_map_50", 0.25, None, None, 3)
    lines = format_table(numbers, ["a", "long name"])
    assert [line.split("  ")[0] for line in lines] == [
        "class", "a", "long name", "mean of classes", "otsu_lung baseline",
    ]  # fmt: skip
    assert lines[0].endswith("HD95 mm  mask mAP .50")
    assert lines[3].endswith("0.300 [0.050, 0.900] n=7  -        0.250 n=3")
    assert lines[4].endswith("0.300 [0.050, 0.900] n=7  -        -")  # a baseline has no scores
