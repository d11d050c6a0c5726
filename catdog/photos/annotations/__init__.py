"""The class of a photo: from its folder, its name, a table of labels, or a person's corrections.

Imported by the jobs, the ingest and `sources`.
"""
