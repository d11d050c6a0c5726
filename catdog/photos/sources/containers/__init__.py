"""Files that hold photos: archives and Parquet files, read in place, and several of them at once.

`sources` imports it.
"""
