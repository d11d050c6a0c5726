"""The page of a sweep, and which of its settings mattered.

Imported by the tune job alone.
"""
