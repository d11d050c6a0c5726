"""Lists of paths, and listings by Ray tasks into shards for more photos than one process should hold.

`packed_tasks.list_many` is the entry point.
"""
