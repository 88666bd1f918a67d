"""Sending with a stated number of tries."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


class DeliveryError(Exception):
    """A message that was not delivered.

    Args:
        what: Why, without addresses or passwords.
        again: Whether another try may succeed.
    """

    def __init__(self, what: str, again: bool) -> None:
        super().__init__(what)
        self.what = what
        self.again = again


def deliver(send: Callable[[], None], waits_s: Sequence[float]) -> None:
    """Calls `send` until it succeeds, at most once more than there are waiting times.

    Raises:
        DeliveryError: The last try failed, or a try failed for good; it says how many there were.
    """
    tries = len(waits_s) + 1
    for number, wait_s in enumerate((*waits_s, None), 1):
        try:
            send()
            return
        except DeliveryError as error:
            if not error.again or wait_s is None:
                counted = f" (try {number} of {tries})" if number > 1 else ""
                raise DeliveryError(f"{error.what}{counted}", again=False) from None
            time.sleep(wait_s)
