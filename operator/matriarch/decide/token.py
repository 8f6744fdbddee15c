"""The token of a demotion: where one cluster stopped writing for good, and from where another may go on.

It names the shutdown checkpoint of the cluster that was demoted. Whoever has replayed that record holds every write
that was ever acknowledged there, so a promotion by a token loses nothing. It is a fact and no secret; its checksum
finds a copy that lost a part on the way.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from matriarch.postgres.lsn import format_lsn, parse_lsn
from matriarch.postgres.timeline import WalPosition

PREFIX = "mt1"
"""Of the text form, with the version of the content."""
LONGEST = 1024


@dataclass(frozen=True, slots=True)
class Token:
    """`lsn`: where the record of the shutdown checkpoint begins. `claimed`: the highest timeline number that the
    cluster ever claimed, above which the next one begins. `cluster` and `nonce` tell two demotions apart."""

    system_identifier: str
    timeline: int
    lsn: int
    claimed: int
    cluster: str
    nonce: str

    @property
    def position(self) -> WalPosition:
        return WalPosition(self.timeline, self.lsn)


def encode(token: Token) -> str:
    """`mt1.<content>.<checksum>`, of letters, digits, `-` and `_`."""
    doc = {
        "system": token.system_identifier,
        "timeline": token.timeline,
        "lsn": format_lsn(token.lsn),
        "claimed": token.claimed,
        "cluster": token.cluster,
        "nonce": token.nonce,
    }
    content = base64.urlsafe_b64encode(json.dumps(doc, sort_keys=True, separators=(",", ":")).encode()).rstrip(b"=")
    return f"{PREFIX}.{content.decode()}.{_checksum(content.decode())}"


def decode(text: str) -> Token:
    """The reverse of `encode`, whatever white space a copy brought along.

    Raises:
        ValueError: it is no token, or not a whole one. The message is for the person who set it.
    """
    parts = "".join(text.split()).split(".")
    if len(parts) != 3 or parts[0] != PREFIX:
        raise ValueError(f"it is not a demotion token, which begins with {PREFIX}.")
    if parts[2] != _checksum(parts[1]):
        raise ValueError("its checksum is wrong: a part of it is missing or changed")
    try:
        doc: Any = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return Token(
            system_identifier=str(doc["system"]),
            timeline=int(doc["timeline"]),
            lsn=parse_lsn(doc["lsn"]),
            claimed=int(doc["claimed"]),
            cluster=str(doc["cluster"]),
            nonce=str(doc["nonce"]),
        )
    except (binascii.Error, KeyError, TypeError, ValueError) as e:
        raise ValueError(f"its content can't be read: {e}") from e


def digest(text: str) -> str:
    """What is remembered of a token that was used."""
    return hashlib.sha256("".join(text.split()).encode()).hexdigest()[:24]


def _checksum(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:8]
