"""What `python -m model.check` runs: the protocol within bounds, and the same with one rule broken.

`defines` are the preprocessor switches of the model named by `file`. A mutant must be caught by its configuration:
a model that lets it pass proves nothing about the rule.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Configuration:
    """`quick`: part of the subset for every test run. `limit`: seconds."""

    name: str
    file: str
    defines: tuple[str, ...]
    what: str
    quick: bool = False
    limit: float = 100.0


@dataclass(frozen=True, slots=True)
class Mutant:
    """`switch` breaks a rule of `configuration`; `defines` are added where its bounds do not fit."""

    name: str
    switch: str
    configuration: str
    rule: str
    defines: tuple[str, ...] = ()
    quick: bool = False
    limit: float = 100.0


PROTOCOL, READS = "protocol.pml", "reads.pml"

CONFIGURATIONS = (
    Configuration(
        "elections", PROTOCOL, ("WRITES=2", "EPOCHS=3", "CRASHES=0"), "three members, three epochs, two commits"
    ),
    Configuration(
        "crashes", PROTOCOL, ("WRITES=1", "EPOCHS=3", "CRASHES=1"), "a crash or an agent's restart anywhere", quick=True
    ),
    Configuration(
        "late", PROTOCOL, ("WRITES=1", "EPOCHS=3", "CRASHES=0", "LATE=1"), "a takeover without an answer lands late"
    ),
    Configuration(
        "changes", PROTOCOL, ("WRITES=1", "EPOCHS=2", "CRASHES=0", "CHANGES=1", "KMAX=2"), "remove and raise k"
    ),
    Configuration(
        "preferred",
        PROTOCOL,
        ("WRITES=1", "EPOCHS=2", "CRASHES=0", "CHANGES=1", "PREFERRED"),
        "remove, and to alone",
    ),
    Configuration(
        "from-alone",
        PROTOCOL,
        ("WRITES=1", "EPOCHS=2", "CRASHES=0", "CHANGES=1", "PREFERRED", "START_ALONE"),
        "return to quorum",
    ),
    Configuration(
        "add", PROTOCOL, ("WRITES=1", "EPOCHS=2", "CRASHES=0", "CHANGES=1", "START_VOTERS=2"), "add a voter", quick=True
    ),
    Configuration(
        "lower", PROTOCOL, ("WRITES=1", "EPOCHS=2", "CRASHES=0", "CHANGES=1", "K0=2", "KMAX=2"), "lower k", quick=True
    ),
    Configuration(
        "late-change",
        PROTOCOL,
        ("WRITES=1", "EPOCHS=1", "CRASHES=1", "CHANGES=2", "LATE=1", "KMAX=2"),
        "two changes; the Lease's half of one lands late; crashes between the steps",
    ),
    Configuration(
        "five",
        PROTOCOL,
        ("N=5", "K0=2", "KMAX=2", "WRITES=1", "EPOCHS=1", "CRASHES=0", "CHANGES=1"),
        "five members, k 2: every row but those of mode alone",
    ),
    Configuration(
        "five-raise",
        PROTOCOL,
        ("N=5", "K0=1", "KMAX=2", "WRITES=1", "EPOCHS=1", "CRASHES=0", "CHANGES=1"),
        "five members: k from 1 to 2, or a voter less",
    ),
    Configuration(
        "volumes",
        PROTOCOL,
        ("WRITES=1", "EPOCHS=2", "CRASHES=1", "LOSSES=1"),
        "a volume lost or cloned: a new incarnation",
        quick=True,
    ),
    Configuration(
        "replace",
        PROTOCOL,
        ("WRITES=1", "EPOCHS=1", "CRASHES=0", "LOSSES=1", "CHANGES=2"),
        "a lost voter is removed, its successor added",
    ),
    Configuration(
        "switchover", PROTOCOL, ("WRITES=1", "EPOCHS=3", "CRASHES=0", "SWITCHES=1"), "an heir takes over, or does not"
    ),
    Configuration(
        "rollback",
        PROTOCOL,
        ("WRITES=1", "EPOCHS=3", "CRASHES=0", "ROLLBACKS=1"),
        "the API server's store goes back to before a failover",
        quick=True,
    ),
    Configuration(
        "ends",
        PROTOCOL,
        ("LIVENESS", "WRITES=1", "EPOCHS=6", "MAXLEN=6", "CRASHES=1", "DEATHS=1"),
        "after a crash or a death somebody acknowledges again",
        quick=True,
    ),
    Configuration(
        "ends-switchover",
        PROTOCOL,
        ("LIVENESS", "WRITES=1", "EPOCHS=7", "MAXLEN=6", "CRASHES=1", "SWITCHES=1"),
        "a switchover with a crash anywhere ends well",
    ),
    Configuration(
        "ends-changes",
        PROTOCOL,
        ("LIVENESS", "WRITES=1", "EPOCHS=6", "MAXLEN=6", "CRASHES=1", "CHANGES=1", "KMAX=2"),
        "no change of the voters stays half done",
    ),
    Configuration(
        "ends-alone",
        PROTOCOL,
        ("LIVENESS", "WRITES=1", "EPOCHS=6", "MAXLEN=6", "CRASHES=1", "START_ALONE"),
        "without voters the holder comes back by itself",
        quick=True,
    ),
    Configuration("reads", READS, (), "clocks: nobody reads from a deposed primary what a newer one replaced"),
)

MUTANTS = (
    # ha-protocol's twelve
    Mutant("no stream cut", "M_NO_CUT", "elections", "I3, S4", quick=True),
    Mutant("quorum one short", "M_QUORUM_SHORT", "elections", "I2", quick=True),
    Mutant("choice by LSN alone", "M_LSN_ONLY", "elections", "I4", ("WRITES=3",)),
    Mutant("degrade: names first", "M_DEGRADE_NAMES_FIRST", "preferred", "table: to alone"),
    Mutant("return to quorum: Lease first", "M_UPGRADE_LEASE_FIRST", "from-alone", "table: to quorum"),
    Mutant("return to quorum: no barrier", "M_UPGRADE_NO_BARRIER", "from-alone", "table: to quorum, S6"),
    Mutant("remove: Lease first", "M_REMOVE_LEASE_FIRST", "changes", "table: remove"),
    Mutant("remove: no barrier", "M_REMOVE_NO_BARRIER", "changes", "table: remove, S6"),
    Mutant("add: names first", "M_ADD_NAMES_FIRST", "add", "table: add", quick=True),
    Mutant("swap ignores the voters", "M_CAS_IGNORES_VOTERS", "add", "S9"),
    Mutant("promotion with empty names", "M_EMPTY_NAMES", "elections", "I5", quick=True),
    Mutant("forgotten promise", "M_FORGOTTEN_PROMISE", "crashes", "I3", quick=True),
    # the review's
    Mutant("S' are those that answered", "M_SPRIME_RESPONDERS", "elections", "S2"),
    Mutant("incomplete clones count", "M_COUNT_INCOMPLETE", "elections", "S3"),
    Mutant("view instead of process", "M_VIEW_NOT_PROCESS", "elections", "S4"),
    Mutant("SHOW instead of flag", "M_SHOW_NOT_FLAG", "from-alone", "S5"),
    Mutant("one-round barrier", "M_ONE_ROUND", "changes", "S6"),
    Mutant("no tombstones", "M_NO_TOMBSTONES", "elections", "S8", quick=True),
    Mutant("canary that waits for voters", "M_CANARY_WAITS", "ends", "L4"),
    Mutant("self-promise first", "M_SELF_PROMISE_FIRST", "ends", "L2"),
    Mutant("reclaim without swap", "M_RECLAIM_WITHOUT_SWAP", "crashes", "L1, S11"),
    # our own
    Mutant("voters are names, not memories", "M_NAMES_NOT_MEMORIES", "volumes", "S1"),
    Mutant("raise k: Lease first", "M_RAISE_LEASE_FIRST", "changes", "table: raise k"),
    Mutant("lower k: names first", "M_LOWER_NAMES_FIRST", "lower", "table: lower k"),
    Mutant("slow senders ended after the barrier", "M_END_LAST", "five", "S6"),
    Mutant("names put back without a renewal", "M_NO_RENEWAL", "late-change", "S9"),
    Mutant("heir that lacks the last record", "M_HEIR_BEHIND", "switchover", "switchover"),
    Mutant("nobody reclaims", "M_NO_RECLAIM", "ends-alone", "L1", quick=True),
    Mutant("an older Lease is obeyed", "M_ROLLBACK_OBEYED", "rollback", "L7"),
    Mutant("an older Lease is void by own knowledge alone", "M_ROLLBACK_UNASKED", "rollback", "L7"),
    Mutant("door at once", "M_DOOR_AT_ONCE", "reads", "L3", quick=True),
    Mutant("door forgets what voters granted", "M_DOOR_WITHOUT_GRANTS", "reads", "L3"),
    Mutant("door forgets renewals", "M_DOOR_WITHOUT_RENEWAL", "reads", "L3"),
    Mutant("deadline from the answer, not the beat", "M_DEADLINE_FROM_ANSWER", "reads", "T_fence"),
    Mutant("L as short as T_fence", "LEASE=2", "reads", "L > T_fence + kill"),
)
