"""The page of the stage `report` as a reviewer's browser sees it, parsed with the standard library."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from pipeline.config import ReportParams
from pipeline.report import render_report
from pipeline.report_inputs import load_report_inputs

PARAMS = ReportParams(title="Segtrail report", worst_cases=3)
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects what the tests ask about, and checks that every tag is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, attribute: str) -> list[str]:
        return [str(attrs[attribute]) for _, attrs in self.tags if attribute in attrs]


def render(root: Path, params: ReportParams = PARAMS) -> str:
    return render_report(load_report_inputs(root), params)
