"""The process of a Prefect server that `flows.servers` starts; it ends with its owner."""

from __future__ import annotations

import argparse
import socket
import threading
import time

import uvicorn
from prefect.server.api.server import create_app

from flows.locks import is_alive
from flows.servers import STOP_TIMEOUT_S


def serve(owner: int, descriptor: int, with_ui: bool) -> None:
    """Runs the server on a listening socket until its owner ends or it gets SIGTERM.

    Args:
        owner: A process id.
        descriptor: Of the socket, inherited.
        with_ui: Serve the pages and run the scheduler too.
    """
    app = create_app(ephemeral=not with_ui, final=True)
    config = uvicorn.Config(
        app, log_level="error", lifespan="on", access_log=False, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)

    def follow_owner() -> None:
        while is_alive(owner):
            time.sleep(0.5)
        time.sleep(STOP_TIMEOUT_S / 2)  # what the owner had started says how it ended
        server.should_exit = True

    threading.Thread(target=follow_owner, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--owner", type=int, required=True)
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--ui", action="store_true")
    options = parser.parse_args()
    serve(options.owner, options.socket, options.ui)
