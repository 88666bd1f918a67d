"""What DVC says when a remote fails, as what is wrong, what to do, and whether waiting may help."""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST = 300  # characters of DVC's own words


@dataclass(frozen=True)
class Trouble:
    """Why a push or pull failed.

    Attributes:
        what: The problem, with DVC's own words.
        fix: What to do.
        again: Whether the same may work after a while.
    """

    what: str
    fix: str
    again: bool


@dataclass(frozen=True)
class _Kind:
    pattern: str
    what: str
    fix: str
    again: bool = False


GO_ON = "then segtrail data {action} goes on where it stopped"
# The first that fits counts.
KINDS = (
    _Kind(
        r"requires '(dvc-\w+)'", "DVC lacks the package for this kind of remote",
        "install it into .venv with the package that DVC names, or use another remote",
    ),
    _Kind(
        r"Unable to acquire lock|is busy, it is being blocked", "another DVC command is at work",
        "wait for it to end", again=True,
    ),
    _Kind(r"Errno 28|No space left|Errno 122|Disk quota|QuotaExceeded|Insufficient Storage", "the disk is full",
          "make space at the remote ({url}; when pulling: here), " + GO_ON),
    _Kind(
        r"(will be|going to be) (removed|overwritten|lost)|Use `--force` to override|unsaved",
        "the data here were changed and DVC has no copy of them; they are kept",
        "dvc add the data set to keep the change, or dvc checkout --force to drop it",
    ),
    _Kind(
        r"Missing cache files|missing-files|Checkout failed|do not exist neither in cache nor on remote",
        "the remote does not hold all files of this version",
        "ask the one who changed the .dvc file to segtrail data push",
    ),
    _Kind(
        r"Errno 13|Errno 1\]|Errno 30|Permission denied|Operation not permitted|Read-only|AccessDenied|Access Denied"
        r"|Forbidden|Unauthorized|\b40[13]\b|InvalidAccessKeyId|SignatureDoesNotMatch|Unable to locate credentials"
        r"|PermissionDenied|NoCredentials",
        "the remote gives no right to do this", "give the user of this process the right, or mend the credentials "
        "(dvc remote modify --local), " + GO_ON,
    ),
    _Kind(r"NoSuchBucket|Bucket .* does not exist|The specified bucket", "the bucket does not exist",
          "make the bucket, or mend the address (dvc remote modify NAME url), " + GO_ON),
    _Kind(r"config file error|is not a valid|Invalid url|unsupported URL", "the configuration of the remote is wrong",
          "mend it: dvc remote list, dvc remote modify"),
    _Kind(
        r"Cannot connect|Connect call failed|Connection (refused|reset|closed|aborted|lost)|Name or service not known"
        r"|Temporary failure in name resolution|getaddrinfo|No route|unreachable|timed? ?out|Timeout"
        r"|EndpointConnectionError|Could not connect|Server disconnected|ServerDisconnected|\b50[0234]\b"
        r"|SlowDown|Errno (5|103|104|107|110|111|112|113|116|32)\]",
        "the remote cannot be reached, or went away in the middle",
        "see whether {url} answers from this machine, " + GO_ON, again=True,
    ),
    _Kind(r"Errno (2|20|21)\]", "the folder of the remote is gone or cannot be made",
          "see whether its drive is mounted at {url}, " + GO_ON, again=True),
)  # fmt: skip
UNKNOWN = _Kind("", "DVC failed", "mend what DVC says, " + GO_ON, again=True)
NOISE = re.compile(r"^\s*$|Having any troubles\?|^\s*0%|\r")


def explain(text: str, url: str, action: str) -> Trouble:
    """Tells what DVC's error output means.

    Args:
        text: What DVC wrote.
        url: Of the remote.
        action: "push" or "pull".
    """
    text = hide_password(text)
    lines = [line for line in text.splitlines() if not NOISE.search(line)]
    kind = next((kind for kind in KINDS if re.search(kind.pattern, text)), UNKNOWN)
    fix = kind.fix.format(url=url, action=action)
    if action == "pull":
        fix = fix.replace("segtrail data pull", "dvc pull")
    return Trouble(f"{kind.what}; DVC says: {_shorten(lines, kind.pattern)}", fix, kind.again)


def hide_password(text: str) -> str:
    """Takes user and password out of addresses: what is told here goes into records and messages."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def _shorten(lines: list[str], pattern: str) -> str:
    """The line that tells, and how many say the same: DVC repeats it for each file."""
    telling = [line for line in lines if pattern and re.search(pattern, line)] or lines[-1:] or ["nothing"]
    first = telling[0].removeprefix("ERROR: ").removeprefix("unexpected error - ")
    short = first if len(first) <= LONGEST else first[:LONGEST] + " ..."
    return f"{short} (and {len(telling) - 1} more like it)" if len(telling) > 1 else short
