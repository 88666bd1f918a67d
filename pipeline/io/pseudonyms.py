"""Stand-ins for what names a person, all from one secret salt: the same input always gives the same stand-in.

Who has the salt and knows an identity can find its stand-in; nobody finds the way back from a stand-in alone.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection

UUID_ROOT = "2.25."  # UIDs made from 128 bits, PS3.5 B.2
STANDARD_ROOT = "1.2.840.10008."  # UIDs of the standard name no instance
SHIFT_DAYS = 3650  # dates move back by 1 to so many days


class Pseudonyms:
    """Stand-ins by HMAC-SHA256.

    Args:
        salt: Secret; kept outside the project.
        public: PatientIDs and UIDs that stay, as they are no secret.
    """

    def __init__(self, salt: bytes, public: Collection[str] = frozenset()) -> None:
        self._salt = salt
        self._public = frozenset(public)

    def sparing(self, public: Collection[str]) -> Pseudonyms:
        """The same stand-ins, but some PatientIDs and UIDs stay as they are."""
        return Pseudonyms(self._salt, public)

    @property
    def mark(self) -> str:
        """Tells salts apart; says nothing else about them."""
        return self._digest("mark", "").hex()[:8]

    def patient(self, patient_id: str) -> str:
        """For a PatientID, blanks around it aside."""
        if patient_id.strip() in self._public:
            return patient_id.strip()
        return f"P{self._digest('patient', patient_id.strip()).hex()[:10]}"

    def word(self, text: str) -> str:
        """For any other text that names somebody."""
        return f"N{self._digest('word', text.casefold()).hex()[:10]}"

    def uid(self, uid: str) -> str:
        """For a UID of an instance, series, study or frame; those of the standard stay."""
        if not uid or uid.startswith(STANDARD_ROOT) or uid in self._public:
            return uid
        return UUID_ROOT + str(int.from_bytes(self._digest("uid", uid)[:16], "big"))

    def days(self, patient_id: str) -> int:
        """By how many days a patient's dates move back: the time between two of them stays."""
        number = int.from_bytes(self._digest("days", patient_id.strip())[:4], "big")
        return 1 + number % SHIFT_DAYS

    def token(self, text: str) -> str:
        """What is kept of an identity, so that it can be recognised elsewhere."""
        return self._digest("token", text).hex()[:24]

    def _digest(self, purpose: str, text: str) -> bytes:
        return hmac.new(self._salt, f"{purpose}:{text}".encode(), hashlib.sha256).digest()
