"""Photos in shards: rows that are read where they are used, and the ingest of more photos than one process can hold.

`driver` has the order of the steps, `ranges` the work of the tasks.
"""
