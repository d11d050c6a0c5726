"""Sorts photos into label folders: their names (`names`), who gets each name (`claims`), placing them (`placement`).

Outside this package, only `job` and the benchmarks import it.
"""
