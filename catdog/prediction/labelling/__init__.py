"""The labelling pass: the shards of the inputs to parts of prediction rows, shared out among model actors.

`driver` hands out the work, `worker` is what an actor does.
"""
