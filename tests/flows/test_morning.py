"""The morning report: what each kind of night shows, that foreign text is text, and that the page stands alone."""

from __future__ import annotations

import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from night_records import decision, drift_record, night_record, sha, write_night, write_version

from flows.morning import INDEX, write_morning_report
from flows.morning_history import collect_history, draw_history
from flows.night_folder import NIGHTS

PNG = b"\x89PNG\r\n\x1a\n"
STATES = ("promoted", "kept", "refused", "skipped", "failed", "killed", "running")
VOID = {"meta", "img", "br", "line", "rect", "path"}
EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Tags with their attributes, rows of tables as text, and whether tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def attributes(self, name: str) -> list[str]:
        return [str(attributes[name]) for _, attributes in self.tags if name in attributes]


def render(record: dict[str, object]) -> Page:
    path = write_morning_report(write_night(record))
    assert path == NIGHTS / str(record["night_id"]) / "report.html"
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def archive(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Version 6 with Dice 0.904, version 7 with 0.9121, each with a worst and a median case."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///nowhere.db")
    for version, dice in ((6, 0.904), (7, 0.9121)):
        overlays = write_version(version, dice) / "overlays"
        overlays.mkdir()
        for rank in ("worst", "median", "best"):
            (overlays / f"{rank}_hippocampus_00{version}.png").write_bytes(PNG + rank.encode())
    return project


@pytest.mark.parametrize("state", STATES)
def test_a_page_that_stands_alone(state: str) -> None:
    page = render(night_record(state))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "form"}
    assert all(source.startswith("data:image/png;base64,") for source in page.attributes("src"))
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page.attributes("content")
    assert all(link.startswith(("../", "http://127.0.0.1:")) for link in page.attributes("href"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


@pytest.mark.parametrize(
    ("state", "headline"),
    [
        ("promoted", "Promoted: v7 is the new champion"),
        ("refused", "Refused: v7; v6 stays in use"),
        ("kept", "Kept: the champion stays"),
        ("skipped", "Skipped: nothing was done"),
        ("failed", "Failed in step repro"),
        ("killed", "Killed in step repro"),
        ("running", "Running: the night is at work"),
    ],
)
def test_the_headline_with_reason_and_fix(state: str, headline: str) -> None:
    night = night_record(state)
    page = render(night)
    assert headline in page.text
    assert night["reason"] in page.text
    assert ("To do:" in page.text) == (state in ("failed", "killed"))
    assert night["fix"] in page.text


def test_numbers_of_champion_and_challenger() -> None:
    page = render(night_record())
    row = next(row for row in page.rows if row and row[0] == "test/dice")
    assert row[1:] == [
        *("0.904", "0.884 to 0.924", "26", "0.912", "0.892 to 0.932", "26"),
        *("+0.0081", "+0.0031 to +0.0131", "26"),
    ]
    anterior = next(row for row in page.rows if row and row[0] == "anterior")
    assert anterior[1:7] == ["0.914", "0.894 to 0.934", "26", "0.922", "0.902 to 0.942", "26"]
    assert anterior[7:9] == ["+0.0097", "+0.0047 to +0.0147"]  # 1.2 times the whole
    assert ("div", {"class": "value", "data-metric": "test/dice", "data-value": "0.9121"}) in page.tags


def test_a_refused_challenger_leaves_the_champions_number_on_top() -> None:
    page = render(night_record("refused"))
    assert ("div", {"class": "value", "data-metric": "test/dice", "data-value": "0.904"}) in page.tags


def test_a_night_without_a_decision_shows_the_champion_of_before() -> None:
    write_night(night_record("promoted", "20261126T020000Z"))
    page = render(night_record("failed"))
    assert ("div", {"class": "value", "data-metric": "test/dice", "data-value": "0.9121"}) in page.tags
    assert "v7" in page.text
    assert "Champion and challenger" not in page.text


def test_the_very_first_night() -> None:
    page = render(night_record("killed", steps=[], intake=None, cases=None, seconds=None))
    assert "none yet" in page.text
    assert "The night ended before its first step." in page.text
    assert "The last 1 night" in page.text


def test_cases_with_reasons() -> None:
    page = render(night_record())
    assert ["hippocampus_314", "image without a label"] in page.rows
    assert ["hippocampus_307", "truncated", "the file ends after 1.2 of 3.1 MB"] in page.rows
    assert ["hippocampus_313", "label still growing: 12 s since the last change"] in page.rows
    assert "Taken: 12" in page.text


def test_drift_names_the_feature_first_and_shows_the_picture() -> None:
    night = night_record("refused", drift=drift_record(True))
    (write_night(night) / "drift.png").write_bytes(PNG + b"drift")
    page = render(night)
    features = [row for row in page.rows if row and row[0] in ("spacing_z_mm", "intensity_mean")]
    assert features[0] == [
        "spacing_z_mm",
        "1 (0.9 to 1.1)",
        "1.5 (1.4 to 1.6)",
        "1.840",
        "0.900",
        "2e−07",
        "yes",
    ]
    assert features[1][-1] == "no"
    assert (
        page.text.count("spacing_z_mm of the 12 new cases has drifted (PSI 1.84)") == 2
    )  # on top, and there
    assert len(page.attributes("src")) == 3  # with two test cases of the challenger


def test_steps_have_bars() -> None:
    page = render(night_record("killed"))
    bars = [a for tag, a in page.tags if tag == "span" and str(a.get("class", "")).startswith("bar")]
    assert [bar["style"] for bar in bars] == [
        f"width: {share}%" for share in ("0.0", "0.1", "0.0", "0.1", "100.0")
    ]
    assert bars[-1]["class"] == "bar amber"
    assert page.rows[-1][:3] == ["repro", "not finished", "1 h 10 min"]


def test_the_step_that_writes_this_page_is_not_told() -> None:
    night = night_record()
    night["steps"].append({"name": "report", "state": "running", "seconds": 0.0, "message": ""})
    assert not any(row and row[0] == "report" for row in render(night).rows)


def test_pictures_of_the_challenger_alone_and_only_while_they_fit() -> None:
    captions = re.findall(r"v7 (?:worst|median) case: hippocampus_007", render(night_record()).text)
    assert len(captions) == 2
    folder = Path("data/registry/versions/hippocampus") / sha(7)[:12] / "metrics/overlays"
    (folder / "worst_hippocampus_007.png").write_bytes(b"0" * 600_000)
    page = render(night_record())
    assert len(page.attributes("src")) == 1
    assert (NIGHTS / "20261127T020000Z/report.html").stat().st_size < 1_000_000
    assert render(night_record("kept")).attributes("src") == []


def test_names_and_reasons_are_text() -> None:
    night = night_record(
        "failed",
        reason=EVIL,
        fix=EVIL,
        dataset=EVIL,
        drift=drift_record(True) | {"sentence": EVIL},
        intake={
            "taken": [{"name": EVIL, "files": 1}],
            "waiting": [{"name": EVIL, "reason": EVIL}],
            "refused": [{"name": EVIL, "reason": EVIL}],
        },
        push={"remote": EVIL, "attempts": 1, "pushed": False, "error": EVIL},
        commit={"branch": EVIL, "commit": EVIL},
    )
    night["cases"]["quarantined"] = [{"case_id": EVIL, "code": EVIL, "reason": EVIL}]
    night["steps"][0] |= {"name": EVIL, "message": EVIL}
    night["drift"]["features"][0]["feature"] = EVIL
    page = render(night)
    assert {tag for tag, _ in page.tags} & {"script", "img"} == set()
    assert page.text.count("<script>alert('x')</script>") >= 14
    index = Page((NIGHTS / INDEX).read_text(encoding="utf-8"))
    assert {tag for tag, _ in index.tags} & {"script", "img"} == set()


def test_only_addresses_of_web_servers_are_links() -> None:
    page = render(night_record(prefect_url="javascript:alert(1)"))
    assert not any("javascript" in link for link in page.attributes("href"))


def test_the_report_of_the_project_is_linked_where_there_is_one() -> None:
    assert "../../../data/report/index.html" not in render(night_record()).attributes("href")
    Path("data/report").mkdir(parents=True)
    Path("data/report/index.html").write_text("x")
    night = night_record()
    (link,) = (link for link in render(night).attributes("href") if link.endswith("data/report/index.html"))
    assert (NIGHTS / night["night_id"] / link).resolve() == Path("data/report/index.html").resolve()


def test_the_table_of_all_nights_leads_to_each_report() -> None:
    days = {"20261124T020000Z": "promoted", "20261125T020000Z": "skipped", "20261126T020000Z": "killed"}
    for night_id, state in days.items():
        render(night_record(state, night_id))
    write_night(night_record("running"))  # has no report yet
    write_morning_report(NIGHTS / "20261126T020000Z")
    damaged = NIGHTS / "20261123T020000Z"
    damaged.mkdir()
    (damaged / "night.json").write_text("{")
    index = Page((NIGHTS / INDEX).read_text(encoding="utf-8"))
    assert [row[1].strip() for row in index.rows[1:]] == ["running", "killed", "skipped", "promoted"]
    assert index.attributes("href") == [f"{night_id}/report.html" for night_id in reversed(days)]
    for link in index.attributes("href"):
        assert (NIGHTS / link).is_file()


def test_the_chart_follows_the_champion_and_marks_the_refused() -> None:
    write_version(5, 0.88)
    nights = [
        night_record("promoted", "20261120T020000Z", decision=decision(5, None, True, 0.0)),
        night_record("failed", "20261121T020000Z"),
        night_record("refused", "20261122T020000Z", decision=decision(7, 5, False, -0.01)),
        night_record("promoted", "20261123T020000Z", decision=decision(6, 5, True, 0.02)),
        night_record("skipped", "20261124T020000Z"),
    ]
    history = collect_history(nights)
    assert [point.champion.value for point in history.points] == [0.88, 0.88, 0.88, 0.904, 0.904]
    assert [point.challenger.value for point in history.points] == [0.88, None, 0.9121, 0.904, None]
    assert [point.date for point in history.points] == [f"{day} Nov" for day in range(20, 25)]
    svg = str(draw_history(history))
    assert svg.count('class="promoted"') == 2
    assert svg.count('class="refused"') == 1
    assert svg.count('class="band"') == 2  # one a champion
    assert "<title>22 Nov: v7 refused, 0.912</title>" in svg
    # Five nights share 928 units; 0.86 to 0.94 (0.88 - 0.02, 0.9121 + 0.02) lie between y = 210 and 14.
    places = re.findall(r'<circle class="\w+" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert places == [("148.8", "161.0"), ("520.0", "82.4"), ("705.6", "102.2")]


def test_a_champion_made_by_hand_between_two_nights_is_followed() -> None:
    write_version(5, 0.88)
    nights = [
        night_record("promoted", "20261120T020000Z", decision=decision(6, None, True, 0.0)),
        night_record("skipped", "20261121T020000Z", champion=sha(5)),
    ]
    assert [point.champion.value for point in collect_history(nights).points] == [0.904, 0.88]


def test_means_over_different_cases_are_told() -> None:
    note = "The test set has changed since the champion was evaluated"
    assert note not in render(night_record()).text
    write_version(6, 0.904, n=20)
    assert note in render(night_record()).text


def test_another_metric_is_another_chart() -> None:
    other = decision(6, None, True, 0.0) | {"metric": "test/hd95_mm"}
    nights = [night_record("promoted", "20261120T020000Z", decision=other), night_record()]
    first, second = collect_history(nights).points
    assert first.champion.value is None
    assert second.champion.value == pytest.approx(0.9121)


def test_no_more_than_thirty_nights() -> None:
    for day in range(1, 29):
        write_night(night_record("skipped", f"202610{day:02}T020000Z"))
    for day in range(1, 6):
        write_night(night_record("skipped", f"202611{day:02}T020000Z"))
    page = render(night_record("skipped", "20261106T020000Z"))
    assert "The last 30 nights" in page.text
    strip = [a for tag, a in page.tags if tag == "li" and "title" in a]
    assert len(strip) == 30
    assert strip[-1]["class"] == "here"
    write_morning_report(NIGHTS / "20261005T020000Z")  # an old one again: without the nights after it
    assert (
        "The last 5 nights"
        in Page((NIGHTS / "20261005T020000Z/report.html").read_text(encoding="utf-8")).text
    )


def test_templates_are_part_of_the_package() -> None:
    project = Path(__file__).resolve().parents[2]
    packed = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "flows"
    ]
    found = {path.name for pattern in packed for path in (project / "flows").glob(pattern)}
    assert {"morning_template.html", "nights_template.html", "morning_style.css"} <= found
