"""The rows of a predict job: built, stored in parts, joined into the result files.

`commit` finishes a job and checks its files, `proof` is --verify.
"""
