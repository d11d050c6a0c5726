"""The train job: the stages, the trainer's workers, the train loop, and what a run reports.

`job` is the order of steps; `train_loop` the arithmetic. Imports features and below.
"""
