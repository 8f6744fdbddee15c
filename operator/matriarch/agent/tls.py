"""Mutual TLS with the cluster's own CA, for the agent's API and its calls to peers.

The files are a mounted Secret that the controller renews: both contexts look at them again before they are used, so
that no restart is ever needed for a new certificate.
"""

from __future__ import annotations

import ssl
from pathlib import Path

FOLDER = Path("/etc/matriarch/tls")


class Tls:
    """Server and client contexts that follow the files in `folder`: `tls.crt`, `tls.key`, `ca.crt`."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self._stamp: tuple[int, ...] = ()
        self.server = _context(ssl.Purpose.CLIENT_AUTH)
        self.server.verify_mode = ssl.CERT_REQUIRED
        self.client = _context(ssl.Purpose.SERVER_AUTH)
        self.refresh()

    def refresh(self) -> bool:
        """Load the files if they changed; whether they did. Raises OSError or ssl.SSLError when they can't be read."""
        files = [self.folder / name for name in ("tls.crt", "tls.key", "ca.crt")]
        stamp = tuple(f.stat().st_mtime_ns for f in files)
        if stamp == self._stamp:
            return False
        for context in (self.server, self.client):
            context.load_cert_chain(files[0], files[1])
            context.load_verify_locations(files[2])
        self._stamp = stamp
        return True


def _context(purpose: ssl.Purpose) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if purpose is ssl.Purpose.CLIENT_AUTH else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def common_name(certificate: dict[str, object] | None) -> str:
    """The subject's CN of a peer certificate as `ssl` gives it; empty when there is none."""
    subject = (certificate or {}).get("subject") or ()
    for rdn in subject:  # type: ignore[attr-defined]  # ssl types it as object; it is a tuple of tuples of pairs
        for key, value in rdn:
            if key == "commonName":
                return str(value)
    return ""
