"""What de-identification must remember, outside the project: the salt, and hashes of the identities it has met.

`SEGTRAIL_PRIVATE_DIR`, else `$XDG_DATA_HOME/segtrail`, else `~/.local/share/segtrail`; readable by its owner alone.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import SegtrailError
from pipeline.io.pseudonyms import Pseudonyms

SALT, HASHES = "salt", "identities.json"
SALT_BYTES = 32
FIX = "set SEGTRAIL_PRIVATE_DIR to a folder of yours outside every project"


def private_folder() -> Path:
    """Where the salt lies; it need not exist."""
    if chosen := os.environ.get("SEGTRAIL_PRIVATE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "segtrail"


def load_pseudonyms(project: Path = Path()) -> Pseudonyms:
    """The stand-ins of this user; the salt is made when there is none.

    Raises:
        SegtrailError: The folder lies inside the project, or cannot be written.
    """
    folder = private_folder()
    if project.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise SegtrailError("the private folder lies inside the project", str(folder), FIX)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / SALT).exists():
            _write(folder / SALT, secrets.token_hex(SALT_BYTES))
        return Pseudonyms(bytes.fromhex((folder / SALT).read_text(encoding="ascii").strip()))
    except (OSError, ValueError) as error:
        raise SegtrailError(f"the salt cannot be used: {error}", str(folder / SALT), FIX) from error


def read_mark() -> str:
    """Mark of this user's salt, see `Pseudonyms.mark`; "" when there is none."""
    return load_pseudonyms().mark if (private_folder() / SALT).exists() else ""


def load_hashes() -> frozenset[str]:
    """Hashes of all identities met so far, see `Pseudonyms.token`.

    Raises:
        SegtrailError: The file is damaged.
    """
    path = private_folder() / HASHES
    try:
        return frozenset(json.loads(path.read_text(encoding="ascii")))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, TypeError) as error:
        fix = "delete the file; segtrail data add of the original data makes it again"
        raise SegtrailError(f"the hashes of identities cannot be read: {error}", str(path), fix) from error


def remember(tokens: Iterable[str], pseudonyms: Pseudonyms) -> None:
    """Adds identities, as hashes."""
    known = load_hashes()
    hashes = known | {pseudonyms.token(token) for token in tokens}
    if hashes != known:
        _write(private_folder() / HASHES, json.dumps(sorted(hashes)))


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(text, encoding="ascii")
    draft.replace(path)
