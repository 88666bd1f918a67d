"""The door of `segtrail data add`: what identifies a person stays outside of the project."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from flows.overlay import KEEP, list_files
from flows.private_map import load_pseudonyms, private_folder, remember
from pipeline.errors import ImageFileError, SegtrailError

LOGGER = logging.getLogger("segtrail")
TABLES = (".csv", ".tsv", ".mhd", ".nhdr")  # they name files, which are renamed by the same rule
PROSE = (".txt", ".md")
TEXTS = (".json", ".xml", *PROSE, ".yaml", ".yml")  # parts of names stay where classes may be called so


# Files of other kinds (reports, mails, exports of an archive) may name the patient in ways nobody sees.
IMAGES = (
    *(".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz", ".mhd", ".mha", ".raw", ".zraw", ".raw.gz"),
    *(".nrrd", ".nhdr", ".mgh", ".mgz"),
    *(".h5", ".hdf5", ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".npy", ".npz", ".bval", ".bvec"),
)


class Door:
    """Decides for each file of a raw data set whether it comes in, under which name and with which bytes.

    The headers of all DICOM files are read first: a name found in one of them is replaced in every text and
    every file name of the set.

    Args:
        files: Of the data set, by their name relative to it.
        project: Top folder of the project.

    Attributes:
        files: Those that come in, by the name they get.
        left_out: Names of those that do not, by the reason.

    Raises:
        SegtrailError: The salt cannot be used.
    """

    def __init__(self, files: Mapping[str, Path], project: Path) -> None:
        from pipeline.io.identities import Identities, Redactor
        from pipeline.io.pseudonyms import Pseudonyms

        self._identities = Identities()
        self._changed: set[Path] = set()
        self._public: set[str] = set()  # ids and UIDs of files that come in as they are
        self._blanked = 0
        reasons = {name: self._look(path) for name, path in files.items()}
        self._identities.forget(self._public)
        if self._identities:
            reasons |= {
                n: _of_unknown_kind(p) for n, p in files.items() if not reasons[n] and self._is_plain(p)
            }
        # Where nobody is named no stand-in is needed, and no salt.
        named = bool(self._identities or self._changed)
        salted = load_pseudonyms(project) if named else Pseudonyms(b"")
        self._pseudonyms = salted.sparing(self._public)
        self.left_out: dict[str, list[str]] = defaultdict(list)
        for name, reason in reasons.items():
            if reason:
                self.left_out[reason].append(name)
        self._redactor = Redactor(self._identities, self._pseudonyms)
        self.files: Mapping[str, Path] = self._rename(
            {name: path for name, path in files.items() if not reasons[name]}
        )
        self._names = {path: name for name, path in self.files.items()}

    def contents(self, path: Path) -> bytes | None:
        """What a file shall hold in the project; None where it comes in as it is.

        Raises:
            SegtrailError: A DICOM file cannot be written again.
        """
        from pipeline.io.deidentify import deidentify
        from pipeline.io.header_text import blank_header_text

        if path in self._changed:
            return deidentify(path, self._pseudonyms, self._redactor.clean_text)
        suffix = path.suffix.lower()
        if suffix in (*TABLES, *TEXTS):
            return self._clean_text_file(path, suffix in (*TABLES, *PROSE))
        blanked = blank_header_text(path, self._names[path])
        self._blanked += blanked is not None
        return blanked

    def prepare(self, target: Path) -> None:
        """Remembers the identities, as hashes, before any file of theirs comes in.

        Args:
            target: Where the data set lies, or will.

        Raises:
            SegtrailError: The stand-ins in `target` were made with another salt, or nothing can be remembered.
        """
        if self._changed and (mark := _find_mark(target)) not in ("", self._pseudonyms.mark):
            what = f"its stand-ins were made with the salt {mark}, the one here is {self._pseudonyms.mark}"
            fix = (
                f"bring back the folder that held the salt ({private_folder()}), or name it by SEGTRAIL_PRIVATE_DIR; "
                f"if it is lost, every patient gets another stand-in and may change sides: delete {target} "
                "and add all data again"
            )
            raise SegtrailError(what, str(target), fix)
        if tokens := self._identities.tokens():
            remember(tokens, self._pseudonyms)

    def close(self) -> None:
        """Says what was done."""
        for reason, names in sorted(self.left_out.items()):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            LOGGER.warning("left out: %s%s: %s", names[0], more, reason)
        if self._changed:
            LOGGER.info("%d DICOM files de-identified (docs/how-to/privacy.md)", len(self._changed))
        if self._blanked:
            LOGGER.info("free text blanked in the headers of %d NIfTI files", self._blanked)

    def _look(self, path: Path) -> str:
        """Reads the header of a DICOM file; why it may not come in, "" when it may."""
        from pipeline.io.deidentify import is_deidentified, read_header, why_not_admitted
        from pipeline.io.identities import list_public

        if path.name.upper() == "DICOMDIR":
            return "a table of contents, which names patients"
        try:
            header = read_header(path)
        except ImageFileError as problem:
            return problem.what
        if header is None:
            return ""
        if is_deidentified(header):
            self._public |= list_public(header)
            return ""
        self._identities.add(header)
        reason = why_not_admitted(header)
        if not reason:
            self._changed.add(path)
        return reason

    def _is_plain(self, path: Path) -> bool:
        from pipeline.io.dicom_files import is_dicom

        return path not in self._changed and path.name != KEEP and not is_dicom(path)

    def _clean_text_file(self, path: Path, table: bool) -> bytes | None:
        from pipeline.io.identities import decode_text

        if path.stat().st_size == 0 or not (self._identities or self._identities.uids):
            return None
        clean = self._redactor.clean_name if table else self._redactor.clean_text
        text, encoding = decode_text(path.read_bytes())
        changed = clean(text)
        return None if changed == text else changed.encode(encoding, "replace")

    def _rename(self, files: Mapping[str, Path]) -> dict[str, Path]:
        """Files by the names they get; two that would get one name are told apart by a hash of the old one."""
        names = {name: self._redactor.clean_name(name) for name in files}
        counts = Counter(names.values())
        renamed = {}
        for name, path in files.items():
            new = names[name]
            if counts[new] > 1:
                folder, _, base = new.rpartition("/")
                new = f"{folder}/{self._pseudonyms.token(name)[:10]}_{base}".lstrip("/")
            renamed[new] = path
        return renamed


def _find_mark(target: Path) -> str:
    """Mark of the salt of the files that are there already; "" when there are none."""
    from pipeline.io.deidentify import read_header, salt_mark

    for path in list_files(target).values() if target.is_dir() else ():
        try:
            header = read_header(path)
        except ImageFileError:
            continue
        if header is not None and (mark := salt_mark(header)):
            return mark
    return ""


def _of_unknown_kind(path: Path) -> str:
    known = path.name.lower().endswith((*TABLES, *TEXTS, *IMAGES))
    return "" if known else "neither image nor text; it may name the patient"
