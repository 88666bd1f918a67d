"""Overlapping regions of `dataset.json`: sets of labels, such as the whole of a tumour and its core.

Two spellings: nnU-Net's, where a label that is a list of values is a region, and plain labels beside `regions`.
`regions_class_order` is nnU-Net's in both: the value that each region paints into a label map, first region first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Regions = dict[str, tuple[int, ...]]
Problem = tuple[str, str]  # what, fix
ORDER = "regions_class_order"
EXAMPLE = '"regions": {"whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]'


def split_labels(found: Any) -> tuple[Any, dict[str, Any]]:
    """Takes the regions out of labels in nnU-Net's spelling.

    Args:
        found: `labels` as it stands in the file.

    Returns:
        Labels without any list: the values of the regions are called `label_<value>`; and the regions, a single
        value among them being a region of one. Labels that hold no list come back as they are, without regions.
    """
    if not isinstance(found, Mapping) or not any(isinstance(value, list) for value in found.values()):
        return found, {}
    background = {name: value for name, value in found.items() if value == 0 and value is not False}
    ignored = {name: value for name, value in found.items() if name == "ignore"}
    regions = {str(k): v for k, v in found.items() if k not in background and k not in ignored}
    values = sorted({v for region in regions.values() for v in _members(region) if v > 0})
    return {**background, **{f"label_{v}": v for v in values}, **ignored}, regions


def parse_regions(
    raw: Mapping[str, Any], lists: Mapping[str, Any], labels: Mapping[str, int]
) -> tuple[Regions, tuple[int, ...], list[Problem]]:
    """Checks regions and their order against the labels.

    Without `regions_class_order` a region paints the one value that no later region holds.

    Args:
        raw: The whole of `dataset.json`.
        lists: Regions that stood among the labels (`split_labels`).
        labels: Values of the classes, background included; empty when they are wrong themselves.

    Returns:
        Regions in painting order, the value each one paints, and what is wrong.
    """
    order: Any = raw.get(ORDER) or None
    found = lists or raw.get("regions")
    if not labels or not (found or order):
        return {}, (), []
    if lists and raw.get("regions"):
        what = "regions are given twice, as lists in labels and as regions"
        return {}, (), [(what, "leave the lists out of labels, or leave regions out")]
    if not isinstance(found, Mapping) or not found:
        what = f"regions are {found!r}, expected a list of label values for each name"
        return {}, (), [(what, f"write {EXAMPLE}")]
    regions = {str(name): tuple(dict.fromkeys(_members(value))) for name, value in found.items()}
    problems = [*_wrong_members(found, labels), *_wrong_names(regions, labels)]
    if problems:
        return {}, (), problems
    own = _own_values(regions)
    problems = _hidden(regions, own)
    if order is None and not problems:
        unclear = [name for name, values in own.items() if len(values) > 1]
        order = [values[0] for values in own.values()]
        if unclear:
            what = f"{ORDER} is missing, and the regions {unclear} have several values they could paint"
            problems.append((what, f"write for each region the value it paints, such as {EXAMPLE}"))
    elif order is not None:
        problems += _wrong_order(order, regions, own)
    return ({}, (), problems) if problems else (regions, tuple(order), [])


def _members(value: Any) -> tuple[int, ...]:
    """Whole numbers of a region; what else stands there is left out."""
    values = value if isinstance(value, list) else [value]
    return tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool))


def _wrong_members(found: Mapping[Any, Any], labels: Mapping[str, int]) -> Iterable[Problem]:
    known = sorted(labels.values())
    for name, value in found.items():
        values = value if isinstance(value, list) else [value]
        members = _members(value)
        if not members or len(members) < len(values):
            what = f"region {name!r} is {value!r}, expected a list of label values"
            yield what, f"write {EXAMPLE}"
            continue
        if 0 in members:
            yield f"region {name!r} holds the background (0)", "leave 0 out: regions are of foreground"
        unknown = [v for v in members if v not in known]
        if unknown:
            yield f"region {name!r} holds the values {unknown}, labels has {known}", "add or drop the values"


def _wrong_names(regions: Regions, labels: Mapping[str, int]) -> list[Problem]:
    twice = sorted(regions.keys() & labels.keys())
    return [(f"{twice} are labels and regions", "give each region a name of its own")] if twice else []


def _own_values(regions: Regions) -> Regions:
    """Values of each region that no region painted after it holds."""
    names = list(regions)
    return {
        name: tuple(v for v in regions[name] if not any(v in regions[later] for later in names[place + 1 :]))
        for place, name in enumerate(names)
    }


def _hidden(regions: Regions, own: Regions) -> list[Problem]:
    return [
        (
            f"region {name!r} {list(regions[name])} would not be seen: regions painted after it hold all its values",
            "name the largest region first, and no region twice",
        )
        for name, values in own.items()
        if not values
    ]


def _wrong_order(order: Any, regions: Regions, own: Regions) -> list[Problem]:
    whole = isinstance(order, list) and len(_members(order)) == len(order)
    if not whole or len(order) != len(regions) or len(set(order)) < len(order):
        what = (
            f"{ORDER} is {order!r}, expected {len(regions)} different values, one for each of {list(regions)}"
        )
        return [(what, f"write for each region the value it paints, such as {EXAMPLE}")]
    return [
        (
            f"{ORDER} paints region {name!r} with {value}, which is not one of its own values {list(own[name])}",
            "paint a region with a value of it that no later region holds",
        )
        for (name, value) in zip(regions, order, strict=True)
        if own[name] and value not in own[name]
    ]
