"""The report page of a sweep, and how much each of its settings mattered.

Only the tune job imports it.
"""
