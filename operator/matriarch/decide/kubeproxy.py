"""How late kube-proxy is, for everybody who decides by it. All in nanoseconds.

It applies a first change of an EndpointSlice at once and a second one, of whichever slice, up to ROUND later (its
--iptables-min-sync-period). A pair of changes therefore takes two rounds, and what comes after it waits for a third.
"""

from __future__ import annotations

ROUND = 1_000_000_000

REST = 2 * ROUND + ROUND // 5
"""So long after the last change both rounds are over, and the next change is applied at once."""
