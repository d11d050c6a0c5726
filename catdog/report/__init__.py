"""What all report pages share: markup, charts, plots, thumbnails, tables, and the export to tracking tools.

The page of a job is in that job's folder. Imports photos, evaluation and below.
"""
