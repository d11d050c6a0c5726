"""The page of a predict job: which rows it shows (`gallery`), their cards and search (`cards`), the page (`report`)."""
