"""How a replica cluster stands, and what came of the wish to promote or to demote one."""

from __future__ import annotations

from matriarch.decide.conditions import Condition, describe
from matriarch.decide.facts import Facts, Site
from matriarch.decide.verdict import Standing, Verdict


def assess(facts: Facts) -> Verdict | None:
    """What a replica cluster has to say before anything else; None when it is well so far, or a primary cluster that
    nobody wants to be another."""
    if not facts.follows:
        return _demoting(facts) if facts.wish.replica and facts.lease is not None and facts.lease.epoch else None
    if facts.lease is None or facts.lease.holder is None:
        said = "; ".join(f"{i.name}: {describe(i)}" for i in facts.instances if i.agent is None or not i.agent.ready)
        return Verdict(Standing.WORKING, "Creating", said or f"Copying {facts.wish.source}.")
    site = _site(facts)
    if not facts.wish.replica:
        return _promoting(site)
    if not facts.serving:
        holder = facts.get(facts.holder or "")
        state = describe(holder) if holder is not None else "it does not exist"
        message = f"The designated primary {facts.holder} is away ({state}); another takes its place in 15 s."
        return Verdict(Standing.WORKING, "DesignatedPrimaryAway", message)
    if not site.streaming:
        message = f"Nothing arrives from {facts.wish.source}: {site.problem or 'the stream begins'}."
        return Verdict(Standing.WORKING, "SourceAway", message)
    return None


def conditions(facts: Facts) -> list[Condition]:
    """Those that only a replica cluster has, or has in another form."""
    message = f"This is a replica cluster of {facts.wish.source} and takes no writes."
    found = [Condition("Available", "False", "ReplicaCluster", message)]
    site = _site(facts)
    if facts.serving and site.streaming:
        found.append(
            Condition("FollowsSource", "True", "Streaming", f"{facts.holder} streams from {facts.wish.source}.")
        )
    elif not facts.wish.replica:
        found.append(
            Condition("FollowsSource", "False", "Promoting", site.message or "This cluster is to be promoted.")
        )
    else:
        problem = site.problem or f"the designated primary {facts.holder} does not stream"
        found.append(Condition("FollowsSource", "False", "NoStream", f"{problem}."))
    return found


def _site(facts: Facts) -> Site:
    holder = facts.get(facts.holder) if facts.holder is not None else None
    return (holder.agent.site if holder is not None and holder.agent is not None else None) or Site()


def _promoting(site: Site) -> Verdict:
    if site.promotion == "refuse":
        return Verdict(Standing.STALLED, "PromotionRefused", f"Not promoted: {site.message}.")
    message = f"To be promoted: {site.message}." if site.message else "The designated primary is to be promoted."
    return Verdict(Standing.WORKING, "Promoting", message)


def _demoting(facts: Facts) -> Verdict:
    site = _site(facts)
    if site.promotion == "refuse":
        return Verdict(Standing.STALLED, "DemotionRefused", f"Not demoted: {site.message}.")
    message = f"{facts.holder} is to stop, and this cluster to follow {facts.wish.source}."
    return Verdict(Standing.WORKING, "Demoting", message)
