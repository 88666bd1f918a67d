"""`segtrail data add`: brings a raw data set under DVC and sets `params.yaml` by a preset, or changes nothing."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.door import Door
from flows.fetch import download, unpack
from flows.overlay import list_files, overlaid
from flows.params_edit import ParamsEdit
from flows.presets import Preset, load_preset, preset_edit
from flows.staging import build_tree, is_known, recover, replace_bytes, restored_on_failure, swap_in
from pipeline.errors import SegtrailError

LOGGER = logging.getLogger("segtrail")
FACTS = "dataset.json"
BY_HAND = "segtrail data add FOLDER --preset {}"


def check_arguments(raw: Path | None, preset: str, project: Path = Path(), also: Sequence[Path] = ()) -> None:
    """Refuses what no waiting would mend, before `add_data` waits for its turn; changes nothing.

    Args:
        raw: Folder of the data set, or None.
        preset: Name of a file in `presets/`.
        project: Top folder of the project.
        also: Files that belong to the data set and lie elsewhere.

    Raises:
        SegtrailError: Unknown preset or one that is not right, a folder or file that is missing, too much or needed.
    """
    chosen = load_preset(preset, project / "presets")
    preset_edit(chosen, project / "params.yaml")
    for path in also:
        if chosen.built_in or not path.is_file():
            what = f"preset {preset} makes its own data" if chosen.built_in else "there is no such file"
            raise SegtrailError(what, f"--also {path}", "leave it out, or name a file such as cases.csv")
    place = raw or project / "data" / "raw" / chosen.dataset.name
    for path in also:
        if path.name.startswith(".") or (place / path.name).is_dir():
            folder = (place / path.name).is_dir()
            what = (
                f"{place} has a folder of this name" if folder else "hidden files are left out of a data set"
            )
            raise SegtrailError(what, f"--also {path}", "give the file another name")
    if len({path.name for path in also}) < len(also):
        names = ", ".join(str(path) for path in also)
        raise SegtrailError("two files have one name", f"--also {names}", "give each name once")
    if raw is None:
        known = is_known(project / "data" / "raw" / chosen.dataset.name)
        if not (chosen.built_in or chosen.dataset.download or known):
            raise _nothing_to_fetch(preset)
        return
    if chosen.built_in:
        what = f"preset {preset} makes its own data and takes no folder"
        raise SegtrailError(what, str(raw), f"segtrail data add --preset {preset}")
    fix = f"give the folder that holds the data set in layout {chosen.dataset.layout} (data/README.md)"
    if not raw.exists():
        raise SegtrailError("the raw folder does not exist", str(raw), fix)
    if not raw.is_dir():
        raise SegtrailError("this is a file, expected a folder", str(raw), fix)


def add_data(
    raw: Path | None,
    preset: str,
    project: Path = Path(),
    also: Sequence[Path] = (),
    keep_identity: bool = False,
) -> None:
    """Puts a raw data set at `data/raw/<name>`, under DVC, and writes the preset's values into `params.yaml`.

    A data set that is there already becomes what `raw` holds; files that did not change are not copied again.
    What identifies a person stays outside, see `flows.door.Door`. Hidden files are left out, symbolic links are
    followed. On any failure data, `.dvc` file and params are as before; after a kill the next call sees to that.

    Args:
        raw: Folder in the layout of the preset. None takes the data set that was added before, or fetches the
            preset's public one.
        preset: Name of a file in `presets/`.
        project: Top folder of the project.
        also: Files such as `cases.csv`, `dataset.json` or `patients.csv` that are put beside those at the top of the
            data set, or in the place of those of the same name, as nothing shall be written into `raw`.
        keep_identity: Take all files as they are, names of patients included.

    Raises:
        SegtrailError: Unknown preset, wrong params, a raw folder that is missing or not in the layout, no
            connection, DVC refuses.
    """
    check_arguments(raw, preset, project, also)
    chosen = load_preset(preset, project / "presets")
    edit = preset_edit(chosen, project / "params.yaml")
    if chosen.built_in:
        _write_params(edit, project)
        return
    target = project / "data" / "raw" / chosen.dataset.name
    recover(target)
    downloads = project / ".segtrail" / "downloads" / target.name
    if raw is not None:
        source = raw
    else:
        source = target if target.is_dir() else _fetch(chosen, preset, downloads)
    with overlaid(source, also, project / ".segtrail" / "also") as whole:
        _look(whole, chosen)
        _bring(whole, target, edit, project, keep_identity)
    shutil.rmtree(downloads, ignore_errors=True)  # only now: a failure must not cost the download again
    LOGGER.info("commit params.yaml and data/raw/%s.dvc to share them; next: make repro", target.name)


def _fetch(preset: Preset, name: str, folder: Path) -> Path:
    """Downloads the public data set into `folder` and unpacks it there; returns the data set's folder."""
    public = preset.dataset.download
    by_hand = BY_HAND.format(name)
    if public is None:
        raise _nothing_to_fetch(name)
    archive = folder / public.url.rsplit("/", 1)[-1]
    LOGGER.info("fetching %s; licence of the data: %s", public.url, public.licence)
    download(public.url, public.checksum, archive, by_hand)
    unpacked = folder / "unpacked"
    unpack(archive, unpacked)
    for candidate in (unpacked, *sorted(path for path in unpacked.iterdir() if path.is_dir())):
        if (candidate / FACTS).is_file():
            return candidate
    raise SegtrailError(f"the archive has no {FACTS} at its top", str(archive), by_hand)


def _nothing_to_fetch(name: str) -> SegtrailError:
    return SegtrailError(
        "no raw folder given, and the preset has none to fetch", f"preset {name}", BY_HAND.format(name)
    )


def _look(source: Path, preset: Preset) -> None:
    """A cheap look at the raw folder, before anything is changed."""
    from pipeline.io.sources import list_cases  # imports the image libraries

    facts, cases = list_cases(source, preset.dataset.layout)
    channels, labels = ", ".join(facts.channels), ", ".join(facts.labels)
    regions = f", regions {', '.join(facts.regions)}" if facts.regions else ""
    LOGGER.info("%s: %d cases, channels %s, labels %s%s", facts.name, len(cases), channels, labels, regions)


def _bring(source: Path, target: Path, edit: ParamsEdit, project: Path, keep_identity: bool) -> None:
    """Builds the new tree beside the old one, then changes data, DVC record and params together."""
    staging = target.with_name(f".{target.name}.partial")
    door = None
    if keep_identity:
        LOGGER.warning(
            "NOTHING IS DE-IDENTIFIED: names, birth dates and ids of patients, where the files hold them, come "
            "into data/raw/%s, DVC's cache and every remote it is pushed to", target.name
        )  # fmt: skip
    elif source != target:  # what is there has been through the door
        door = Door(list_files(source), project)
        door.prepare(target)
    try:
        change = build_tree(source, target, staging, door)
        with restored_on_failure(target, project / "params.yaml"):
            if change:
                swap_in(staging, target)
            dvc_add(target, project)
            _write_params(edit, project)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if door is not None:
        door.close()
    LOGGER.info("data/raw/%s: %s", target.name, change if change else "holds the same files already")
    if change.removed and not change.same:
        LOGGER.warning(
            "NOTHING of what was in data/raw/%s is left: was this another data set? Copy the preset under a name of "
            "its own (docs/how-to/bring-your-own-data.md); DVC's cache still has the old one", target.name
        )  # fmt: skip


def require_version(target: Path, project: Path) -> None:
    """Refuses a data set that is not under DVC, so that what it holds now would be lost by a change.

    Raises:
        SegtrailError: It was never added, or has not been fetched.
    """
    where = target.relative_to(project).as_posix()
    if not target.with_name(f"{target.name}.dvc").is_file():
        what = "the data set is not under DVC" if target.is_dir() else "the data set was never added"
        raise SegtrailError(what, where, "bring it in with segtrail data add RAW --preset NAME")
    if not target.is_dir():
        what = "the data set is under DVC, but its files are not here"
        raise SegtrailError(what, where, f"dvc pull {where}.dvc")


def dvc_add(target: Path, project: Path) -> None:
    """Puts a tree under DVC, as its new version where it is there already.

    Raises:
        SegtrailError: DVC refuses.
    """
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
