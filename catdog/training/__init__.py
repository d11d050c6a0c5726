"""The train job: `job` is the order of steps, `stages` what each stage reads, `driver` runs the workers of `worker`,
`train_loop` is the arithmetic; `diagnosis`, `heatmaps` and `report` explain a finished run. Imports features and below.
"""
