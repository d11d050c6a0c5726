"""What class a photo is of: from its folder, its name, a table of labels, or a person's corrections.

The ingest imports it, and the truth of a predict job that is evaluated.
"""
