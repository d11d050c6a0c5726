"""The page of a train job (`report`): sections on scores and on photos, and heatmaps of what the model looked at.

The job imports the page; the train worker imports the heatmaps.
"""
