"""What a night says to a person: one message, as plain text, Markdown and HTML.

Names of files and cases are foreign text: they come as one line, without control characters, and escaped.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from flows.night_folder import night_folder
from flows.night_numbers import Comparison, compare, version_page
from flows.nights import FAILED, KEPT, KILLED, PROMOTED, REFUSED, RUNNING, SKIPPED
from pipeline.progress import format_seconds
from pipeline.report_tables import moment

Record = Mapping[str, Any]
INFO, WARNING, ERROR = "info", "warning", "error"
MOST_NAMED = 5  # entries of a list that are named; the others are counted
MOST_CHARACTERS = 400  # of one foreign text
MOST_TITLE = 120
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|!~])")


@dataclass(frozen=True)
class Part:
    """A heading and the lines below it."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Message:
    """What a channel sends.

    Attributes:
        title: One short line.
        level: "info", "warning" or "error".
        link: Address of the night's report, "" when there is none.
        parts: The body.
        pages: Name and address of what to look at.
    """

    title: str
    level: str
    link: str
    parts: tuple[Part, ...]
    pages: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """Plain text, without the title."""
        blocks = ["\n".join([f"{part.title}:", *(f"  {line}" for line in part.lines)]) for part in self.parts]
        if self.pages:
            blocks.append("\n".join(["Look at:", *(f"  {name}: {address}" for name, address in self.pages)]))
        return "\n\n".join(blocks) + "\n"

    @property
    def markdown(self) -> str:
        """Markdown, with the title as heading."""
        blocks = [f"## {_markdown(self.title)}"]
        for part in self.parts:
            listed = "\n".join(f"- {_markdown(line)}" for line in part.lines)
            blocks.append(f"**{_markdown(part.title)}**\n\n{listed}")
        if self.pages:
            blocks.append(
                "\n".join(["**Look at**", "", *(f"- {_markdown(n)}: {_page(a)}" for n, a in self.pages)])
            )
        return "\n\n".join(blocks) + "\n"

    @property
    def html(self) -> str:
        """The inner HTML of a page or of a mail."""
        blocks = [Markup("<h2>{}</h2>").format(self.title)]
        for part in self.parts:
            listed = Markup("").join(Markup("<li>{}</li>").format(line) for line in part.lines)
            blocks.append(Markup("<h3>{}</h3><ul>{}</ul>").format(part.title, listed))
        if self.pages:
            links = Markup("").join(Markup("<li>{}: {}</li>").format(n, _anchor(a)) for n, a in self.pages)
            blocks.append(Markup("<h3>Look at</h3><ul>{}</ul>").format(links))
        return str(Markup("\n").join(blocks))


def compose(night: Record) -> Message:
    """The message about a night.

    Args:
        night: Its record.
    """
    comparison = compare(night)
    link = report_address(night)
    pages = [("Morning report", link), ("Model in MLflow", version_page(night))]
    pages.append(("Run in Prefect", str(night.get("prefect_url") or "")))
    return Message(
        title=one_line(f"{model_name(night)}: {_outcome(night, comparison)}", MOST_TITLE),
        level=judge_level(night),
        link=link,
        parts=tuple(Part(title, tuple(lines)) for title, lines in _parts(night, comparison) if lines),
        pages=tuple((name, address) for name, address in pages if address),
    )


def one_line(text: object, most: int = MOST_CHARACTERS) -> str:
    """Foreign text as one line: no line breaks, control characters or changes of direction, and not too long."""
    clean = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in str(text))
    line = " ".join(clean.split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def model_name(night: Record) -> str:
    """Name of the registered model, else of the data set."""
    return str(
        (night.get("decision") or {}).get("name") or night.get("model") or night.get("dataset") or "Segtrail"
    )


def report_address(night: Record) -> str:
    """Address of the report of a night on this machine; "" when there is none."""
    if not night.get("report"):
        return ""
    return (night_folder(night["night_id"]) / str(night["report"])).resolve().as_uri()


def judge_level(night: Record) -> str:
    """How much a night asks of a person."""
    if night["state"] in (FAILED, KILLED):
        return ERROR
    failed = any(step["state"] == "failed" for step in night["steps"])
    push, drift = night.get("push") or {}, night.get("drift") or {}
    odd = failed or push.get("error") or drift.get("drifted") or (night.get("intake") or {}).get("refused")
    return WARNING if odd or night["state"] == REFUSED else INFO


def last_step(night: Record) -> str:
    """Where a night failed or was killed: its first failed step, else its last one."""
    steps = night["steps"]
    failed = [step["name"] for step in steps if step["state"] in ("failed", "running")]
    return str(failed[0] if failed else steps[-1]["name"] if steps else "its start")


def listing(entries: Sequence[Record], describe: Callable[[Record], str]) -> list[str]:
    """The first entries in words, and how many more there are."""
    lines = [one_line(describe(entry)) for entry in entries[:MOST_NAMED]]
    rest = len(entries) - MOST_NAMED
    return [*lines, f"and {rest} more"] if rest > 0 else lines


def count(number: int, thing: str) -> str:
    """Such as "1 case" or "2 cases"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _outcome(night: Record, comparison: Comparison | None) -> str:
    state = night["state"]
    if state in (FAILED, KILLED):
        return f"night {state} in step {last_step(night)}"
    if state == SKIPPED:
        return f"night skipped, {night['reason']}"
    if state not in (PROMOTED, REFUSED, KEPT) or comparison is None:
        return f"night {state}" + (f", {night['reason']}" if state != RUNNING and night["reason"] else "")
    head = comparison.rows[0]
    if state == KEPT or not comparison.challenger:
        value = comparison.shown.text(head.champion.value)
        return f"champion {comparison.champion or 'none'} kept ({comparison.metric} {value})"
    change = comparison.change(head.difference.value, comparison.shown.digits)
    rest = (
        f", {change}" if head.difference.value is not None else "" if comparison.champion else ", the first"
    )
    value = comparison.shown.text(head.challenger.value)
    return f"{comparison.challenger} {state} ({comparison.metric} {value}{rest})"


def _parts(night: Record, comparison: Comparison | None) -> list[tuple[str, list[str]]]:
    drift = night.get("drift") or {}
    return [
        ("Why", [one_line(night["reason"])] if night["reason"] else []),
        ("What to do", [one_line(night["fix"])] if night.get("fix") else []),
        ("Numbers", _numbers(comparison) if comparison else []),
        ("Cases", case_lines(night)),
        ("Drift", [one_line(drift["sentence"])] if drift.get("sentence") else []),
        ("Steps that failed", _failures(night)),
        ("Night", [_about(night)]),
    ]


def _numbers(comparison: Comparison) -> list[str]:
    lines = []
    for row in comparison.rows:
        what = f"{comparison.shown.title}, {row.label}" if row.label else comparison.metric
        sides = [
            ("champion", comparison.champion, row.champion),
            ("challenger", comparison.challenger, row.challenger),
        ]
        values = [f"{side} {name} {comparison.value(score)}" for side, name, score in sides if name]
        if row.difference.value is not None:
            interval = comparison.change_interval(row.difference)
            values.append(f"difference {comparison.change(row.difference.value)} (95 % interval {interval})")
        lines.append(one_line(f"{what}: {', '.join(values)}"))
    return lines


def case_lines(night: Record) -> list[str]:
    """What came in, what waits, what was refused and what is quarantined, with reasons."""
    intake, cases = night.get("intake") or {}, night.get("cases") or {}
    lines = []
    for key, words in (("taken", "taken"), ("waiting", "waiting"), ("refused", "refused")):
        if entries := intake.get(key):
            named = listing(
                entries, lambda e: f"{e['name']}: {e['reason']}" if e.get("reason") else str(e["name"])
            )
            lines.append(f"{len(entries)} {words}: {'; '.join(named)}")
    if cases:
        new = f", {len(cases['new'])} new" if cases.get("new") else ""
        lines.append(f"{count(cases['total'], 'case')} in all, {cases['usable']} usable{new}")
    if quarantined := cases.get("quarantined"):
        named = listing(quarantined, lambda e: f"{e['case_id']} ({e['code']}): {e['reason']}")
        lines.append(f"{len(quarantined)} quarantined: {'; '.join(named)}")
    return lines


def _failures(night: Record) -> list[str]:
    failed = [step for step in night["steps"] if step["state"] == "failed"]
    lines = listing(failed, lambda step: f"{step['name']}: {step['message']}")
    push = night.get("push") or {}
    if push.get("error") and not any(step["name"] == "push" for step in failed):
        lines.append(
            one_line(f"push to {push['remote']}, {count(push['attempts'], 'attempt')}: {push['error']}")
        )
    return lines


def _about(night: Record) -> str:
    spent = "" if night.get("seconds") is None else f", {format_seconds(night['seconds'])}"
    return one_line(f"{night['night_id']}, started {moment(night['started'])} by {night['trigger']}{spent}")


def _markdown(text: str) -> str:
    return MARKDOWN.sub(r"\\\1", text)


def _page(address: str) -> str:
    """A link where a browser elsewhere can follow it; the path of a local file otherwise."""
    return f"[{_markdown(address)}](<{address}>)" if address.startswith("http") else f"`{address}`"


def _anchor(address: str) -> Markup:
    return Markup('<a href="{0}">{0}</a>').format(address) if address.startswith("http") else escape(address)
