"""Rules of BackupSchedule, in CEL for the API server and in Python for the controller.

Of a cron line the API server checks the form and the usual ways to never come; the controller, which has a real parser,
reports the rest in the schedule's conditions.
"""

from __future__ import annotations

import re

from matriarch.api.model import Rule

CRON_FORM = r"^[0-9*,/-]+[ \t]+[0-9*,/-]+[ \t]+[0-9*,/LWlw-]+[ \t]+[0-9A-Za-z*,/-]+[ \t]+[0-9A-Za-z*,/#-]+$"
_SHORT = "(0?[2469]|11|feb|apr|jun|sep|nov)"
NEVER = rf"^[^ ]+[ ]+[^ ]+[ ]+((30|31)([,-](30|31))*[ ]+(0?2|feb)|31[ ]+{_SHORT}([,]{_SHORT})*)[ ]+[*]$"
"""The 30th of February, the 31st of a short month."""

CRON: tuple[Rule, ...] = (
    Rule(
        cel=f"self.cron.matches(r'{CRON_FORM}')",
        message="cron needs five fields (minute, hour, day of the month, month, day of the week), such as 0 2 * * *",
        field=".cron",
        broken=lambda s: not re.fullmatch(CRON_FORM, s.cron),
    ),
    Rule(
        cel=f"!self.cron.lowerAscii().matches('{NEVER}')",
        message="cron never fires, because none of its months has such a day: choose a day that exists, or L for the"
        " last of each month",
        field=".cron",
        broken=lambda s: bool(re.fullmatch(NEVER, s.cron.lower())),
    ),
)
