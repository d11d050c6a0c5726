"""Lists of paths, and listings in shards by Ray tasks: of what is more than one process is to hold.

`packed_tasks.list_many` is the way in.
"""
