"""Parts of every report page: markup, charts, plots, thumbnails, tables, and what tracking tools get.

The page of a job is in that job's folder. Imports photos, evaluation and below.
"""
