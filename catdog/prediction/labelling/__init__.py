"""The labelling pass: the shards of the inputs to parts of prediction rows, shared out among model actors."""
