"""The page of a train job: its sections on scores and on photos, and the page itself."""
