"""The rows of a predict job: built, stored in parts, joined into the files of the result.

`commit` ends a job; `proof` is what --verify and a later command check.
"""
