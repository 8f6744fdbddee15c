"""History tests: clients write while faults strike, and what they saw is checked against what a database may show.

`ops` is the history, `checks` judge it (pure), `clients` make it, `faults` and `pieces` strike, `__main__` runs it all.
"""
