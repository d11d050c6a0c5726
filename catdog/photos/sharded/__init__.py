"""Photos in shards: rows that are read where they are used, and the ingest of folders that one process cannot hold."""
