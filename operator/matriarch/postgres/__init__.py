"""PostgreSQL's own vocabulary: LSNs, timelines, parameters, access rules, connection strings.

Pure, standard library only.
"""
