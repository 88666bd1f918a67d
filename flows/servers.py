"""The Prefect server that records stages when none is running: one for a whole `dvc repro`, gone with it.

Prefect's own temporary server costs every stage its start (7 s) and stays behind after `kill -9`. This one is
shared by all stages of a DVC process and ends by itself when that process ends, however it ends. The module
imports nothing heavy: the server starts beside the stage's own imports.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from flows.locks import is_alive

START_TIMEOUT_S = 120.0
LINGER_S = 1.0  # the recorder of task runs writes each event within some 100 ms
STOP_TIMEOUT_S = 10.0
LOG = "server.log"
OWNER = "SEGTRAIL_OWNER"
HOST_TAG, PID_TAG = "host:", "pid:"


@dataclass
class PrefectServer:
    """A Prefect server of this project.

    Attributes:
        url: Its API, such as `http://127.0.0.1:41234/api`.
        process: None when somebody else started it.
    """

    url: str
    process: subprocess.Popen[bytes] | None = None

    def wait(self, timeout_s: float = START_TIMEOUT_S) -> bool:
        """Waits until the server answers; False when it ended or the time is over."""
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            if answers(self.url, left):
                return True
            if self.process is None or self.process.poll() is not None:
                return False
            time.sleep(0.1)
        return False

    def stop(self) -> None:
        """Ends a server that this process has started, after it has written what was sent to it."""
        if self.process is None:
            return
        time.sleep(LINGER_S)
        end_group(self.process)


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether a Prefect server is healthy at an API address such as `http://127.0.0.1:4200/api`."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def is_stage() -> bool:
    """Whether this process was started as `python -m flows.<stage>`."""
    words = sys.orig_argv
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return module.startswith("flows.") and module.removeprefix("flows.") not in ("cli", "prefect_server")


def is_recording() -> bool:
    """Whether stages are recorded by Prefect; `SEGTRAIL_NO_PREFECT=1` turns it off."""
    return not os.environ.get("SEGTRAIL_NO_PREFECT")


@cache
def find_server() -> PrefectServer:
    """The server that records a stage: that of `PREFECT_API_URL`, that of the DVC process, or a new one.

    A new one is not waited for. Every further call in this process returns the same.
    """
    url = os.environ.get("PREFECT_API_URL")
    if url and answers(url):
        return PrefectServer(url)
    owner = next(iter(find_owners()), os.getpid())
    note = _note_path(owner)
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        if is_alive(known["pid"]):
            return PrefectServer(known["url"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    _remove_old_notes(note.parent)
    server = start_server(owner)
    if server.process is not None:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"url": server.url, "pid": server.process.pid}), encoding="utf-8")
    return server


def start_server(
    owner: int, port: int = 0, with_ui: bool = False, host: str = "127.0.0.1", name: str = ""
) -> PrefectServer:
    """Starts a server and returns at once; it is ready when `wait` says so.

    Args:
        owner: The server ends when this process has ended.
        port: 0 = any free one.
        with_ui: Serve the pages and run the scheduler too.
        host: Address to listen on; whoever reaches it can read and change everything.
        name: By which browsers on other machines ask for it; "" when there are none.
    """
    log = log_path()
    log.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket() as listener, log.open("ab") as output:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)  # from here on a client waits instead of being refused
        listener.set_inheritable(True)
        port = listener.getsockname()[1]
        url = f"{local_address(host, port)}/api"
        environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flows.prefect_server",
                "--owner",
                str(owner),
                "--socket",
                str(listener.fileno()),
            ]
            + ["--ui"] * with_ui,
            env={**environment, "PREFECT_UI_API_URL": f"http://{name}:{port}/api" if name else url},
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return PrefectServer(url, process)


def local_address(host: str, port: int) -> str:
    """How this machine reaches a server that listens on an address."""
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"


@contextlib.contextmanager
def borrow_server(url: str | None = None) -> Iterator[str | None]:
    """A server for a block of requests.

    Args:
        url: API of one that answers; None: one is started, and ends with the block.

    Yields:
        Its API, None when none can be started.
    """
    if url is not None:
        yield url
        return
    server = start_server(os.getpid())
    try:
        yield server.url if server.wait() else None
    finally:
        server.stop()


def log_path() -> Path:
    """What the servers of this project have said."""
    return Path(os.environ["PREFECT_HOME"]) / LOG


def find_owners() -> list[int]:
    """Processes this stage works for: `segtrail repro`, which names itself in the environment, and the DVC above."""
    found = [int(pid) for pid in os.environ.get(OWNER, "").split()]
    for parent in psutil.Process().parents():
        try:
            if any(Path(word).name == "dvc" for word in parent.cmdline()):
                return [*found, parent.pid]
        except psutil.Error:
            continue
    return found


def end_with(owners: Sequence[int]) -> None:
    """Ends this process, and all below it, when one of its owners ends, however that ends."""
    threading.Thread(target=_wait_and_end, args=(owners,), daemon=True).start()


def _wait_and_end(owners: Sequence[int]) -> None:
    while all(is_alive(pid) for pid in owners):
        time.sleep(1)
    time.sleep(2)  # this process may be ending already, with everything above it
    with contextlib.suppress(OSError):  # whoever read it may be gone as well
        sys.stderr.write("segtrail: the process above was killed: this one ends too\n")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_TIMEOUT_S)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def process_tags() -> list[str]:
    """Tags of a flow run that say which process works on it: on a server for several people nothing else does."""
    return [f"{HOST_TAG}{socket.gethostname()}", f"{PID_TAG}{os.getpid()}"]


def interrupt_on(*numbers: signal.Signals) -> None:
    """Makes signals raise KeyboardInterrupt, so that `finally` blocks end what was started.

    SIGHUP stays ignored under `nohup`.
    """
    for number in numbers:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def end_group(process: subprocess.Popen[bytes], timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Ends a process that leads its own group, and all below it: first asked, then killed."""
    below = _descendants(process.pid)
    _signal_group(process.pid, signal.SIGTERM)
    end = time.monotonic() + timeout_s
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        pass
    _, alive = psutil.wait_procs(below, timeout=max(end - time.monotonic(), 0.1))
    _signal_group(process.pid, signal.SIGKILL)
    for child in alive:  # they may lead groups of their own
        child.kill()
    process.wait()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


def _note_path(owner: int) -> Path:
    return Path(os.environ["PREFECT_HOME"]) / "servers" / f"{owner}.json"


def _remove_old_notes(folder: Path) -> None:
    for note in folder.glob("*.json"):
        if not is_alive(int(note.stem)):
            note.unlink(missing_ok=True)
