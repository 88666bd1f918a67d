"""The one error family: what is wrong, where, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


class SegtrailError(Exception):
    """A problem a user can mend.

    Args:
        what: The problem, with the value seen and the value expected.
        where: Case id and file, or the key in `params.yaml`.
        fix: A command to type, a key to change or a value to use.
    """

    def __init__(self, what: str, where: str, fix: str) -> None:
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n  where: {self.where}\n  fix:   {self.fix}"


class ImageFileError(SegtrailError):
    """One image that cannot be used, whatever its format.

    Args:
        code: Machine-readable reason, such as "truncated".
        what: The problem, with the value seen and the value expected.
        path: The file, or the folder of a DICOM series.
        fix: What to do about it.
    """

    def __init__(self, code: str, what: str, path: Path, fix: str) -> None:
        super().__init__(what, str(path), fix)
        self.code = code


def collect(errors: Sequence[SegtrailError]) -> SegtrailError:
    """Makes one error of several, so that a set is reported whole.

    Args:
        errors: At least one error.
    """
    if len(errors) == 1:
        return errors[0]
    lines = "\n".join(f"  {i}. {e.where}: {e.what} (fix: {e.fix})" for i, e in enumerate(errors, 1))
    return SegtrailError(
        f"{len(errors)} problems:\n{lines}", "; ".join(e.where for e in errors), "mend each as listed above"
    )


def unknown_name(kind: str, name: object, legal: Iterable[str], where: str) -> SegtrailError:
    """Builds the error that ends every lookup by name.

    Args:
        kind: What was looked up, such as "layout".
        name: The name that was not found.
        legal: All names that would have been.
        where: Params key or file that holds the name.
    """
    names = ", ".join(sorted(legal))
    return SegtrailError(f"unknown {kind} {name!r}", where, f"use one of: {names}")
