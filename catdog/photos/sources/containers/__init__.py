"""Files that hold photos, one or several: archives and Parquet files, read in place.

`sources` imports it.
"""
