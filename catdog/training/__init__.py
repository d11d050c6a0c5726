"""The train job: `job` runs the steps, `stages` says what each stage reads, `driver` follows the workers of `worker`,
and `fit` is the training itself. `diagnosis` and `page` explain a finished run. Imports features and below.
"""
