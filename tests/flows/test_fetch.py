"""Downloads from a real server on the loopback: whole, resumed, broken off, refused, wrong; and unpacking."""

from __future__ import annotations

import hashlib
import http.server
import io
import logging
import re
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import fetch
from flows.fetch import ByteProgress, download, unpack
from pipeline.errors import SegtrailError

BODY = bytes(range(256)) * 4000  # 1 024 000 bytes
SHA256 = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"


class Server:
    """Serves BODY at /file.tar.

    Attributes:
        ranges: Whether it answers a Range request with the rest.
        dies_after: Bytes after which it breaks the connection, one number a request; empty = never.
        status: Answer to everything, when not 200.
        asked: The Range header of each request, "" when there was none.
    """

    def __init__(self) -> None:
        self.ranges = True
        self.dies_after: list[int] = []
        self.status = 200
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}/file.tar"
        threading.Thread(target=self.httpd.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range", "")
        self.asked.append(wanted)
        if self.status != 200:
            request.send_error(self.status)
            return
        found = re.fullmatch(r"bytes=(\d+)-", wanted)
        start = int(found[1]) if found and self.ranges else 0
        if start >= len(BODY):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        request.send_header("Content-Length", str(len(BODY) - start))
        request.end_headers()
        stop = self.dies_after.pop(0) if self.dies_after else len(BODY)
        request.wfile.write(BODY[start : start + stop])
        if stop < len(BODY) - start:
            request.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    serving = Server()
    yield serving
    serving.httpd.shutdown()
    serving.httpd.server_close()


@pytest.mark.parametrize("checksum", [SHA256, MD5])
def test_fetches_the_file(server: Server, tmp_path: Path, checksum: str) -> None:
    target = tmp_path / "deep" / "file.tar"
    download(server.url, checksum, target)
    assert target.read_bytes() == BODY
    assert server.asked == [""]
    assert [path.name for path in target.parent.iterdir()] == ["file.tar"]


def test_a_file_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.tar"
    target.write_bytes(BODY)
    download(server.url, SHA256, target)
    assert server.asked == []
    target.write_bytes(BODY[:-1])
    download(server.url, SHA256, target)
    assert target.read_bytes() == BODY


def test_goes_on_with_a_partial_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.tar.part").write_bytes(BODY[:300_000])
    download(server.url, SHA256, tmp_path / "file.tar")
    assert (tmp_path / "file.tar").read_bytes() == BODY
    assert server.asked == ["bytes=300000-"]


def test_begins_anew_where_the_server_knows_no_ranges(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "file.tar.part").write_bytes(b"x" * 300_000)
    download(server.url, SHA256, tmp_path / "file.tar")
    assert (tmp_path / "file.tar").read_bytes() == BODY


def test_a_partial_file_that_is_whole_already(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.tar.part").write_bytes(BODY)
    download(server.url, SHA256, tmp_path / "file.tar")
    assert (tmp_path / "file.tar").read_bytes() == BODY
    assert server.asked == [f"bytes={len(BODY)}-"]


def test_a_server_that_dies_in_the_middle_is_asked_for_the_rest(server: Server, tmp_path: Path) -> None:
    server.dies_after = [400_000, 100_000]
    download(server.url, SHA256, tmp_path / "file.tar")
    assert (tmp_path / "file.tar").read_bytes() == BODY
    assert server.asked == ["", "bytes=400000-", "bytes=500000-"]


def test_a_server_that_always_dies_leaves_what_came_for_the_next_try(server: Server, tmp_path: Path) -> None:
    server.dies_after = [100_000] * fetch.TRIES
    with pytest.raises(SegtrailError, match="127.0.0.1 cannot be reached .*0.4 MB are kept"):
        download(server.url, SHA256, tmp_path / "file.tar")
    assert (tmp_path / "file.tar.part").read_bytes() == BODY[: 100_000 * fetch.TRIES]
    download(server.url, SHA256, tmp_path / "file.tar")
    assert server.asked[-1] == f"bytes={100_000 * fetch.TRIES}-"


def test_a_wrong_checksum_names_both_and_removes_the_file(server: Server, tmp_path: Path) -> None:
    wrong = f"md5:{'0' * 32}"
    with pytest.raises(SegtrailError) as caught:
        download(server.url, wrong, tmp_path / "file.tar")
    assert MD5 in caught.value.what
    assert wrong in caught.value.what
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_gone(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(SegtrailError, match="127.0.0.1 answers 404") as caught:
        download(server.url, SHA256, tmp_path / "file.tar")
    assert caught.value.where == server.url
    assert "segtrail data add FOLDER" in caught.value.fix
    assert server.asked == [""]  # no second try: it will not come back


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.status = 503
    with pytest.raises(SegtrailError, match="answers 503"):
        download(server.url, SHA256, tmp_path / "file.tar")
    assert len(server.asked) == fetch.TRIES


def test_no_server_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file.tar"
    with pytest.raises(SegtrailError, match="127.0.0.1 cannot be reached") as caught:
        download(url, SHA256, tmp_path / "file.tar", by_hand="segtrail data add FOLDER --preset hippocampus")
    assert "segtrail data add FOLDER --preset hippocampus" in caught.value.fix


def test_offline_names_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(SegtrailError, match="no-such-host.invalid cannot be reached"):
        download("https://no-such-host.invalid/file.tar", SHA256, tmp_path / "file.tar")


def test_a_full_disk(server: Server, tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "file.tar.part").symlink_to(full)
    with pytest.raises(SegtrailError, match="the disk is full") as caught:
        download(server.url, SHA256, tmp_path / "file.tar")
    assert caught.value.where.endswith("file.tar.part")
    assert len(server.asked) == 1


def test_progress_has_megabytes_and_eta(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("segtrail"), "propagate", True)
    caplog.set_level(logging.INFO, "segtrail")
    clock = iter([100.0, 101.0, 104.0, 105.0])
    monkeypatch.setattr(fetch, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress = ByteProgress("fetch", 10_000_000, done=2_000_000)
    for count in (1_000_000, 1_000_000, 6_000_000):
        progress.add(count)
    # Nothing after 1 s; after 4 s 2 MB of the remaining 8 came: 6 MB at 0.5 MB/s
    assert [record.message for record in caplog.records] == [
        "fetch 4.0/10.0 MB (ETA 12 s)",
        "fetch 10.0/10.0 MB (done)",
    ]


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_unpacks_tar(tmp_path: Path, mode: str) -> None:
    archive = write_tar(tmp_path / "a.tar", {"set/dataset.json": b"{}", "set/imagesTr/a": b"abc"}, mode)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale").touch()
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out/set/imagesTr/a").read_bytes() == b"abc"
    assert not (tmp_path / "out/stale").exists()


def test_unpacks_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("set/dataset.json", "{}")
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert (tmp_path / "out/set/dataset.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["../evil", "set/../../evil"])
def test_no_path_leads_outside(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "a.tar", {"fine": b"", name: b"evil"})
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(name, "evil")
    for archive in ("a.tar", "a.zip"):
        with pytest.raises(SegtrailError, match="not safe to unpack.*evil"):
            unpack(tmp_path / archive, tmp_path / "out" / "deep")
        assert not (tmp_path / "out" / "deep").exists()
    assert list(tmp_path.rglob("evil")) == []


def test_no_link_leads_outside(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "../../secret"
        tar.addfile(link)
    with pytest.raises(SegtrailError, match="not safe to unpack"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar.gz", {"a": bytes(range(256)) * 2000}, "w:gz").read_bytes()
    for number, content in enumerate((whole[: len(whole) // 2], b"not an archive")):
        archive = tmp_path / f"damaged_{number}.tar.gz"
        archive.write_bytes(content)
        with pytest.raises(SegtrailError) as caught:
            unpack(archive, tmp_path / "out")
        assert caught.value.where == str(archive)
        assert not (tmp_path / "out").exists()
