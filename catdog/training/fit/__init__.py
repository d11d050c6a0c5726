"""How one stage finds its weights: `train_loop` over epochs, `train_step` on a batch, `head` by L-BFGS.

What is kept of a stage in between is `checkpoint`. Nothing here knows of Ray; imports features and below.
"""
