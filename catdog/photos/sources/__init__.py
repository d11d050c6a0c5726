"""Where photos come from: folders, object stores, archives, lists and Parquet tables; their keys and their bytes."""
