"""The page of a predict job: which rows it shows, and the page itself."""
