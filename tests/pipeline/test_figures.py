"""Inline SVG: ticks by hand, well-formed XML, positions in scale."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.figures import MOST_POINTS, Curve, DotRow, dot_plot, level_out, line_chart, ticks

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.3, 1.46, [0.0, 0.5, 1.0, 1.5]),
        (-30.0, 40.0, [-40.0, -20.0, 0.0, 20.0, 40.0]),
        (2.0, 2.0, [1.0, 1.5, 2.0, 2.5, 3.0]),
    ],
)
def test_ticks_worked_by_hand(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@given(FINITE, FINITE)
def test_ticks_cover_the_interval_and_rise(first: float, second: float) -> None:
    low, high = sorted((first, second))
    if high - low < 1e-6 * max(abs(low), abs(high), 1.0):
        return  # below the resolution that a chart can show
    found = ticks(low, high)
    slack = 1e-6 * (high - low)
    assert found[0] <= low + slack and found[-1] >= high - slack
    assert all(a < b for a, b in pairwise(found)) and len(found) <= 12


def test_line_chart_is_xml_with_one_line_a_curve() -> None:
    curves = [Curve("a", ((1, 0.0), (2, 1.0)), "s0"), Curve('b"<', ((1, 0.5), (2, 0.5)), "s1")]
    svg = ElementTree.fromstring(line_chart(curves, 'a "b" <c>', "epoch", (0.0, 1.0), mark=(2.0, "best")))
    lines = svg.findall("polyline")
    assert len(lines) == 2 and svg.get("aria-label") == 'a "b" <c>'
    low, high = (float(p.split(",")[1]) for p in lines[0].attrib["points"].split())
    flat = {p.split(",")[1] for p in lines[1].attrib["points"].split()}
    assert high < low  # y grows downwards
    assert flat == {f"{(low + high) / 2:.1f}"}


def test_long_curves_are_thinned_but_keep_their_ends() -> None:
    points = tuple((float(i), float(i)) for i in range(5001))
    line = ElementTree.fromstring(line_chart([Curve("a", points, "s0")], "d", "epoch")).find("polyline")
    assert line is not None
    shown = line.attrib["points"].split()
    assert len(shown) <= MOST_POINTS + 1
    assert shown[-1] == "350.0,12.0"  # 10 from the right edge, 12 from the top


def test_charts_without_values_say_so() -> None:
    assert "No values" in line_chart([Curve("a", (), "s0")], "d", "epoch")
    assert "No case" in dot_plot([DotRow("a", (), None, None, "s0")], "d", "Dice")


def test_a_single_point_is_a_dot_and_the_mark_stays_on_the_axis() -> None:
    # One validation at epoch 4; training went on to epoch 9 and took the weights of epoch 9.
    svg = ElementTree.fromstring(
        line_chart([Curve("a", ((4.0, 0.4),), "s0")], "d", "epoch", (0.0, 1.0), (9.0, "best"))
    )
    (dot,), (mark,) = svg.findall("circle"), svg.findall("line[@class='mark']")
    assert dot.findtext("title") == "a: 0.400" and not svg.findall("polyline")
    assert float(mark.attrib["x1"]) == pytest.approx(350.0)  # the right end of the axis
    assert float(dot.attrib["cx"]) == pytest.approx(46 + 304 * 4 / 9, abs=0.1)


def test_an_axis_of_its_own_leaves_out_what_lies_beyond() -> None:
    curve = Curve("a", ((0.0, 0.0), (1.0, 0.5), (2.0, 0.75), (9.0, 1.0)), "s0")
    svg = ElementTree.fromstring(
        line_chart([curve], "d", "rate", (0.0, 1.0), x_ticks=[(1, "1/8"), (2, "1/4"), (3, "1/2")])
    )
    line = svg.find("polyline")
    assert line is not None
    assert [p.split(",")[0] for p in line.attrib["points"].split()] == ["46.0", "198.0"]
    assert [t.text for t in svg.findall("text")][6:9] == ["1/8", "1/4", "1/2"]


def test_froc_curves_are_brought_to_the_seven_rates() -> None:
    points = [(0.0, 0.2), (0.25, 0.4), (1.0, 0.5), (1.0, 0.7)]
    # Half way between 0.2 and 0.4 at 1/8; level behind the last point.
    assert level_out(points) == [(0.125, pytest.approx(0.3)), (0.25, 0.4), (1.0, 0.5), (1.0, 0.7), (8.0, 0.7)]
    assert level_out([(0.0, 0.5)]) == [(0.125, 0.5), (8.0, 0.5)]


def test_dot_plot_has_a_dot_a_case_with_its_name() -> None:
    row = DotRow("organ <1>", (("a", 0.25), ("b&c", 0.75)), 0.5, (0.25, 0.75), "s0")
    svg = ElementTree.fromstring(dot_plot([row], "d", "Dice", (0.0, 1.0)))
    dots = svg.findall(".//circle")
    assert [d.findtext("title") for d in dots] == ["a: 0.250", "b&c: 0.750"]
    mean, interval = svg.find(".//line[@class='mean']"), svg.find(".//line[@class='interval']")
    assert mean is not None and interval is not None
    places = [float(d.attrib["cx"]) for d in dots]
    assert float(mean.attrib["x1"]) == pytest.approx(sum(places) / 2, abs=0.2)
    assert [float(interval.attrib[k]) for k in ("x1", "x2")] == pytest.approx(places, abs=0.1)


def test_equal_values_do_not_hide_one_another() -> None:
    row = DotRow("a", tuple((f"c{i}", 0.5) for i in range(4)), None, None, "s0")
    dots = ElementTree.fromstring(dot_plot([row], "d", "Dice", (0.0, 1.0))).findall(".//circle")
    assert len({(d.attrib["cx"], d.attrib["cy"]) for d in dots}) == 4
