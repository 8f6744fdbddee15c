"""The datagrams between heartbeats: layout and authentication, nothing of their meaning.

A packet is a fixed header, three short names and an HMAC-SHA-256 over the cluster's name and everything before it.
Nothing of a packet is looked at before its tag was checked. Pure.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

PORT = 7431
MAX_PACKET = 1024  # bytes
SESSION_BYTES = 8
MAX_NAME = 127  # characters of an instance or incarnation

_MAGIC = b"MHB1"
_HEADER = struct.Struct("!4sBB8sQ8sQQQQQ")
_TAG_BYTES = 32
_GRANTED, _NO_VOTERS = 1, 2


class Kind(IntEnum):
    BEAT = 1  # of a live holder
    PROBE = 2  # of anybody else
    ANSWER = 3


@dataclass(frozen=True, slots=True)
class Packet:
    """`session` is random for each process; `number` grows with each packet of a session. `echo_*` are those of the
    newest packet that the sender had from the receiver: they prove that this packet is no older than that one.
    `receiver` is an instance; a packet is good for nobody else.
    """

    kind: Kind
    sender: str
    incarnation: str
    receiver: str
    session: bytes
    number: int
    echo_session: bytes = bytes(SESSION_BYTES)
    echo_number: int = 0
    epoch: int = 0
    promised: int = 0
    fenced: int = 0
    flush_lsn: int = 0
    granted: bool = False  # an answer that gives the holder a peer lease
    no_voters: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """What all members of one cluster share, besides the key; packets of another cluster never verify."""

    namespace: str
    cluster: str

    def tag(self, key: bytes, body: bytes) -> bytes:
        return hmac.digest(key, f"matriarch heartbeat\0{self.namespace}\0{self.cluster}\0".encode() + body, "sha256")


def encode(packet: Packet, key: bytes, context: Context) -> bytes:
    flags = (_GRANTED if packet.granted else 0) | (_NO_VOTERS if packet.no_voters else 0)
    body = _HEADER.pack(
        _MAGIC,
        packet.kind,
        flags,
        packet.session,
        packet.number,
        packet.echo_session,
        packet.echo_number,
        packet.epoch,
        packet.promised,
        packet.fenced,
        packet.flush_lsn,
    ) + b"".join(_name(text) for text in (packet.sender, packet.incarnation, packet.receiver))
    return body + context.tag(key, body)


def decode(raw: bytes, keys: Sequence[bytes], context: Context) -> tuple[Packet, bytes] | None:
    """The packet and the one of `keys` that its sender used; None for anything that is not authentic and whole."""
    if not _HEADER.size + _TAG_BYTES <= len(raw) <= MAX_PACKET:
        return None
    body, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
    key = next((k for k in keys if hmac.compare_digest(tag, context.tag(k, body))), None)
    if key is None:
        return None
    magic, kind, flags, session, number, echo_session, echo_number, epoch, promised, fenced, lsn = _HEADER.unpack_from(
        body
    )
    try:
        if magic != _MAGIC:
            return None
        (sender, incarnation, receiver), rest = _names(body[_HEADER.size :])
        if rest:
            return None
        packet = Packet(
            kind=Kind(kind),
            sender=sender,
            incarnation=incarnation,
            receiver=receiver,
            session=session,
            number=number,
            echo_session=echo_session,
            echo_number=echo_number,
            epoch=epoch,
            promised=promised,
            fenced=fenced,
            flush_lsn=lsn,
            granted=bool(flags & _GRANTED),
            no_voters=bool(flags & _NO_VOTERS),
        )
    except (ValueError, IndexError):
        return None
    return packet, key


def _name(text: str) -> bytes:
    raw = text.encode("ascii")
    if len(raw) > MAX_NAME:
        raise ValueError(f"{text!r} is no name of an instance or incarnation")
    return bytes([len(raw)]) + raw


def _names(raw: bytes) -> tuple[tuple[str, str, str], bytes]:
    names = []
    for _ in range(3):
        end = 1 + raw[0]
        if end > len(raw):
            raise ValueError("a name is cut off")
        names.append(raw[1:end].decode("ascii"))
        raw = raw[end:]
    return (names[0], names[1], names[2]), raw
