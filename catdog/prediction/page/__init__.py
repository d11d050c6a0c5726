"""The report page of a predict job: its rows (`gallery`), sections (`cards`), data (`content`), all of it (`report`).

Only `job` imports this package.
"""
