"""Parts of every report page: markup, charts, plots, thumbnails, tables, and what tracking tools get.

What a single job's page says stands beside that job. Imports photos, evaluation and below.
"""
