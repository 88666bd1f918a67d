"""Fetches a public data set by address and checksum, and unpacks it."""

from __future__ import annotations

import errno
import hashlib
import http.client
import logging
import shutil
import ssl
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from pipeline.errors import SegtrailError, unknown_name
from pipeline.progress import format_seconds

LOGGER = logging.getLogger("segtrail")
BY_HAND = "segtrail data add FOLDER --preset NAME"
TRIES = 4  # connections for one file; each goes on where the last one broke off
PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 30.0
CHUNK_BYTES = 1 << 20
# Only what the network does to us; a full disk is an OSError too and must not be tried again.
NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


class ByteProgress:
    """Logs how many megabytes are done, every few seconds and at the end.

    Args:
        label: What is being done, such as "fetch".
        total: Bytes to do; 0 when unknown.
        done: Bytes that were there before; they do not count for the speed.
        interval_seconds: Shortest time between two lines.
    """

    def __init__(self, label: str, total: int, done: int = 0, interval_seconds: float = 2.0) -> None:
        self.label = label
        self.total = total
        self.done = self.before = done
        self.interval_seconds = interval_seconds
        self.started = self.shown = time.monotonic()

    def add(self, count: int) -> None:
        """Counts more bytes, and logs a line when it is time."""
        self.done += count
        now = time.monotonic()
        if now - self.shown < self.interval_seconds and self.done != self.total:
            return
        self.shown = now
        megabytes = f"{self.done / 1e6:.1f}"
        if not self.total:
            LOGGER.info("%s %s MB", self.label, megabytes)
            return
        speed = (self.done - self.before) / max(now - self.started, 1e-6)
        seconds = (self.total - self.done) / max(speed, 1.0)
        left = f"ETA {format_seconds(seconds)}" if self.done < self.total else "done"
        LOGGER.info("%s %s/%.1f MB (%s)", self.label, megabytes, self.total / 1e6, left)


def download(url: str, checksum: str, target: Path, by_hand: str = BY_HAND) -> None:
    """Fetches a file; what is half there in `<target>.part` is gone on with when the server can.

    Args:
        url: Address, http or https.
        checksum: "md5:..." or "sha256:..." of the file.
        target: File to write; when it is there with the right checksum, nothing is fetched.
        by_hand: Command that takes a local folder instead, named in the errors.

    Raises:
        SegtrailError: No connection, the server refuses, the connection broke too often, the disk is full,
            or the file that came is not the one expected (it is removed).
    """
    if target.exists() and _digest(target, checksum) == checksum:
        LOGGER.info("%s is here already", target.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        _receive_patiently(url, part, by_hand)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise SegtrailError(f"the disk is full: {error}", str(part), "free space, then repeat") from error
    seen = _digest(part, checksum)
    if seen != checksum:
        part.unlink()
        raise SegtrailError(
            f"the checksum is {seen}, expected {checksum}; the file was removed",
            url,
            f"repeat; if it stays so, the file at this address has changed: get it elsewhere and {by_hand}",
        )
    part.replace(target)


def _receive_patiently(url: str, part: Path, by_hand: str) -> None:
    host = urllib.parse.urlsplit(url).hostname or url
    for number in range(1, TRIES + 1):
        try:
            _receive(url, part)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500 or number == TRIES:
                fix = (
                    f"look the address up, correct it in the preset, or get the files elsewhere and {by_hand}"
                )
                raise SegtrailError(f"{host} answers {error.code} {error.reason}", url, fix) from error
            reason = f"{error.code} {error.reason}"
        except NETWORK_ERRORS as error:
            reason = str(getattr(error, "reason", error))
            here = part.stat().st_size if part.exists() else 0
            if isinstance(error, urllib.error.URLError) or number == TRIES:
                raise SegtrailError(
                    f"{host} cannot be reached ({reason}); {here / 1e6:.1f} MB are kept for the next try",
                    url,
                    f"check the connection and repeat, or hand over a local folder: {by_hand}",
                ) from error
        LOGGER.info("the connection to %s broke (%s); trying again", host, reason)
        time.sleep(PAUSE_SECONDS)


def _receive(url: str, part: Path) -> None:
    """One connection: appends to `part` when the server answers with the range asked for."""
    offset = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "segtrail"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if offset and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # all bytes are here; the checksum will tell
        raise
    with answer:
        first = answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
        resumed = offset > 0 and answer.status == http.client.PARTIAL_CONTENT and first
        done = offset if resumed else 0
        length = int(answer.headers.get("Content-Length") or 0)
        progress = ByteProgress("fetch", done + length if length else 0, done)
        with part.open("ab" if resumed else "wb") as stream:
            while chunk := answer.read(CHUNK_BYTES):
                stream.write(chunk)
                progress.add(len(chunk))
        if length and progress.done < progress.total:  # http.client is silent about a short body
            raise ConnectionError(f"{progress.done} of {progress.total} bytes came")


def _digest(path: Path, checksum: str) -> str:
    """The checksum of a file in the same notation as the expected one."""
    algorithm = checksum.partition(":")[0]
    if algorithm not in ("md5", "sha256"):
        raise unknown_name("checksum", algorithm, ("md5", "sha256"), checksum)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return f"{algorithm}:{digest.hexdigest()}"


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar or zip archive into a fresh folder; a failed attempt leaves no folder behind.

    Raises:
        SegtrailError: The archive is of another kind, damaged, or holds a path that leads outside `folder`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")  # refuses absolute paths, "..", links outside, devices
        elif zipfile.is_zipfile(archive):
            _unpack_zip(archive, folder)
        else:
            raise SegtrailError(
                "neither a tar nor a zip archive", str(archive), "unpack it by hand: " + BY_HAND
            )
    except tarfile.FilterError as error:
        shutil.rmtree(folder)
        raise _unsafe(str(error), archive) from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        shutil.rmtree(folder)
        raise SegtrailError(f"cannot be unpacked: {error}", str(archive), "remove it and repeat") from error
    except SegtrailError:
        shutil.rmtree(folder)
        raise


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise _unsafe(f"{name!r} would be extracted outside the destination", archive)
        packed.extractall(folder)


def _unsafe(reason: str, archive: Path) -> SegtrailError:
    return SegtrailError(
        f"the archive is not safe to unpack: {reason}", str(archive), "get the data from another place"
    )
