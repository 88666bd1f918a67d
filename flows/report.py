"""Stage `report`: all files of the run become one self-contained page, `data/report/index.html`."""

from __future__ import annotations

import logging
from pathlib import Path

from prefect import flow

from flows.stage import run_stage
from pipeline.config import load_params
from pipeline.report import render_report
from pipeline.report_inputs import load_report_inputs

LOGGER = logging.getLogger("segtrail")
OUTPUT = Path("data/report")


@flow(name="report")
def report_flow() -> None:
    """Writes the page and says where it lies."""
    page = render_report(load_report_inputs(), load_params().report)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    temporary = OUTPUT / ".index.html.partial"
    temporary.write_text(page, encoding="utf-8")
    path = temporary.replace(OUTPUT / "index.html")
    LOGGER.info("report: %s (%.0f kB)", path, len(page.encode()) / 1000)


if __name__ == "__main__":
    run_stage(report_flow)
