"""A month of nights: 30 of them through the real Prefect server, on real hippocampi, with everything that may go wrong.

    .venv/bin/python benchmarks/month.py RAW [--short] [--folder FOLDER]

RAW is the folder that holds `Task04_Hippocampus`. Each night trains a tiny U-Net from the champion, for seconds. The
script ends with a table of the nights, or with the first thing that is not as it must be (tests/month_checks.py). Run
as root it has a disk of its own, which it makes full. FOLDER, new, gets reports
and logs of the nights.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from preset_quality import ROOT, describe_machine

sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "flows")]

from month_nights import MONTH, SHORT  # noqa: E402
from month_run import play  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--short", action="store_true", help="7 of them, about 25 minutes")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="segtrail-month-") as scratch:
        folder = (options.folder or Path(scratch) / "month").resolve()
        folder.mkdir(parents=True)
        os.environ["SEGTRAIL_PRIVATE_DIR"] = scratch  # the identities that were met are no user's
        play(folder, options.raw.resolve(), SHORT if options.short else MONTH)
    print(f"{describe_machine()}, load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
