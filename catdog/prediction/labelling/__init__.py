"""The labelling pass: model actors turn the shards of the inputs into parts of prediction rows.

`driver` hands out the work, `worker` is the actor.
"""
