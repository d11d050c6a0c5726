"""How one stage is trained: `train_loop` runs epochs, `train_step` trains on a batch, `head` solves a head by L-BFGS.

`checkpoint` holds the state of a stage between epochs. Nothing here depends on Ray; imports features and below.
"""
