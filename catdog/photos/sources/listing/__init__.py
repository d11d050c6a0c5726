"""Listings in shards: of folders, archives, Parquet files and lists that are more than one process is to hold."""
