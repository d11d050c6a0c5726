"""Photos in shards: rows that are read where they are used, and the ingest of what one process cannot hold.

`driver` has the order of its steps, `ranges` what tasks do.
"""
