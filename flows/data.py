"""`segtrail data add`: brings a raw data set under DVC and sets `params.yaml` by a preset, or changes nothing."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

from flows.fetch import download, unpack
from flows.params_edit import ParamsEdit
from flows.presets import Preset, load_preset, preset_edit
from flows.staging import build_tree, recover, replace_bytes, restored_on_failure, swap_in
from pipeline.errors import SegtrailError

LOGGER = logging.getLogger("segtrail")
FACTS = "dataset.json"


def add_data(raw: Path | None, preset: str, project: Path = Path()) -> None:
    """Puts a raw data set at `data/raw/<name>`, under DVC, and writes the preset's values into `params.yaml`.

    A data set that is there already becomes what `raw` holds; files that did not change are not copied again.
    Hidden files are left out, symbolic links are followed. On any failure data, `.dvc` file and params are as
    before; after a kill the next call sees to that.

    Args:
        raw: Folder in the layout of the preset. None takes the data set that was added before, or fetches the
            preset's public one.
        preset: Name of a file in `presets/`.
        project: Top folder of the project.

    Raises:
        SegtrailError: Unknown preset, wrong params, a raw folder that is missing or not in the layout, no
            connection, DVC refuses.
    """
    chosen = load_preset(preset, project / "presets")
    edit = preset_edit(chosen, project / "params.yaml")
    if chosen.built_in:
        if raw is not None:
            what = f"preset {preset} makes its own data and takes no folder"
            raise SegtrailError(what, str(raw), f"segtrail data add --preset {preset}")
        _write_params(edit, project)
        return
    target = project / "data" / "raw" / chosen.dataset.name
    recover(target)
    downloads = project / ".segtrail" / "downloads" / target.name
    if raw is not None:
        source = raw
    else:
        source = target if target.is_dir() else _fetch(chosen, preset, downloads)
    _look(source, chosen)
    _bring(source, target, edit, project)
    shutil.rmtree(downloads, ignore_errors=True)  # only now: a failure must not cost the download again
    LOGGER.info("commit params.yaml and data/raw/%s.dvc to share them; next: make repro", target.name)


def _fetch(preset: Preset, name: str, folder: Path) -> Path:
    """Downloads the public data set into `folder` and unpacks it there; returns the data set's folder."""
    public = preset.dataset.download
    by_hand = f"segtrail data add FOLDER --preset {name}"
    if public is None:
        raise SegtrailError(
            "no raw folder given, and the preset has none to fetch", f"preset {name}", by_hand
        )
    archive = folder / public.url.rsplit("/", 1)[-1]
    LOGGER.info("fetching %s; licence of the data: %s", public.url, public.licence)
    download(public.url, public.checksum, archive, by_hand)
    unpacked = folder / "unpacked"
    unpack(archive, unpacked)
    for candidate in (unpacked, *sorted(path for path in unpacked.iterdir() if path.is_dir())):
        if (candidate / FACTS).is_file():
            return candidate
    raise SegtrailError(f"the archive has no {FACTS} at its top", str(archive), by_hand)


def _look(source: Path, preset: Preset) -> None:
    """A cheap look at the raw folder, before anything is changed."""
    from pipeline.io.sources import list_cases  # imports the image libraries

    fix = f"give the folder that holds the data set in layout {preset.dataset.layout} (data/README.md)"
    if not source.exists():
        raise SegtrailError("the raw folder does not exist", str(source), fix)
    if not source.is_dir():
        raise SegtrailError("this is a file, expected a folder", str(source), fix)
    facts, cases = list_cases(source, preset.dataset.layout)
    channels, labels = ", ".join(facts.channels), ", ".join(facts.labels)
    LOGGER.info("%s: %d cases, channels %s, labels %s", facts.name, len(cases), channels, labels)


def _bring(source: Path, target: Path, edit: ParamsEdit, project: Path) -> None:
    """Builds the new tree beside the old one, then changes data, DVC record and params together."""
    staging = target.with_name(f".{target.name}.partial")
    try:
        change = build_tree(source, target, staging)
        with restored_on_failure(target, project / "params.yaml"):
            if change:
                swap_in(staging, target)
            _dvc_add(target, project)
            _write_params(edit, project)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    LOGGER.info("data/raw/%s: %s", target.name, change if change else "holds the same files already")


def _dvc_add(target: Path, project: Path) -> None:
    path = target.relative_to(project).as_posix()
    LOGGER.info("putting %s under DVC", path)
    command = [sys.executable, "-m", "dvc", "add", path]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SegtrailError(
            f"dvc add ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}",
            path,
            "mend what DVC says (busy: wait for the other dvc command to end), then repeat",
        )


def _write_params(edit: ParamsEdit, project: Path) -> None:
    """Replaces `params.yaml` in one step and says which keys changed."""
    replace_bytes(project / "params.yaml", edit.text.encode())
    for change in edit.changes or ("nothing to change",):
        LOGGER.info("params.yaml: %s", change)
