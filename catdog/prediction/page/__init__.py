"""The page of a predict job: its rows (`gallery`), sections (`cards`), data (`content`), and the whole (`report`).

Only the job imports it.
"""
