"""The page of a train job: sections on scores (`scores`) and on photos (`photos`), and the page (`report`)."""
