"""Reads a cron line in its time zone: the last time at or before now, and the next.

The only place that knows the cron library. Five fields, as in `crontab(5)`, or one of @hourly, @daily, @weekly,
@monthly, @yearly. Daylight saving is as in Debian's cron: a time that the clocks skip fires right after the gap,
one that they repeat fires once, lines with `*` in minutes or hours go on by real time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from matriarch.decide.schedule import Fires
from matriarch.errors import Refused

MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


def fires(line: str, zone: str, now: datetime) -> Fires:
    """The times of `line` around `now` (UTC in, UTC out); both None for a line that no date matches.

    Raises Refused with a sentence for a line or a zone that cannot be read.
    """
    place = _zone(zone)
    expression = _expression(line)
    local = now.astimezone(place)
    try:
        following = _after(expression, local)
        return Fires(last=_at_or_before(expression, local), next=following)
    except CronSimError as error:
        if "day-of-month" in str(error) and _readable_in_some_month(expression, now):
            return Fires(last=None, next=None)
        raise Refused(
            f"The cron line {line!r} cannot be read ({str(error)[0].lower()}{str(error)[1:]}). "
            "Use five fields: minute, hour, day of month, month, day of week, for example `0 2 * * *`.",
            reason="InvalidSchedule",
        ) from error


def _expression(line: str) -> str:
    text = " ".join(line.split())
    if text.startswith("@"):
        if text.lower() not in MACROS:
            raise Refused(
                f"The cron line {line!r} is not known. Use five fields or one of {', '.join(MACROS)}.",
                reason="InvalidSchedule",
            )
        return MACROS[text.lower()]
    if len(text.split(" ")) != 5:
        hint = " Leave out the seconds." if len(text.split(" ")) == 6 else ""
        raise Refused(
            f"The cron line {line!r} has {len(text.split())} fields instead of five (minute, hour, day of month, "
            f"month, day of week), for example `0 2 * * *`.{hint}",
            reason="InvalidSchedule",
        )
    return text


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:  # no such name; a folder of names; a path
        raise Refused(
            f"The time zone {name!r} is not known. Use a name of the IANA list, for example `UTC` or `Europe/Berlin`.",
            reason="InvalidTimeZone",
        ) from error


def _after(expression: str, local: datetime) -> datetime | None:
    """First time after `local`. The library counts wall-clock times that are repeated once, so from within the second
    pass of a repeated hour it may answer with a time of the first: such answers are passed over."""
    for time in CronSim(expression, local):
        if time.astimezone(UTC) > local.astimezone(UTC):
            return time.astimezone(UTC)
    return None


def _at_or_before(expression: str, local: datetime) -> datetime | None:
    """Newest time at or before `local`. Backwards the library passes over times that the clocks skipped, so it only
    finds where to start from, and the way forward from there decides."""
    back = CronSim(expression, local + timedelta(seconds=1), reverse=True)
    start = next(back, None)
    while start is not None and start.astimezone(UTC) > local.astimezone(UTC):
        start = next(back, None)
    if start is None:
        return None
    newest = start
    for time in CronSim(expression, start):
        if time.astimezone(UTC) > local.astimezone(UTC):
            break
        newest = time
    return newest.astimezone(UTC)


def _readable_in_some_month(expression: str, now: datetime) -> bool:
    """The library refuses 30 February as a bad day, though each field is right: such a line never fires."""
    minute, hour, day, _, weekday = expression.split()
    try:
        CronSim(f"{minute} {hour} {day} * {weekday}", now)
    except CronSimError:
        return False
    return True
