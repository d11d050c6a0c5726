"""The train job: `job` is the order of steps, `stages` what each stage reads, `driver` runs the workers of `worker`,
`fit` is the arithmetic; `diagnosis` and `page` explain a finished run. Imports features and below.
"""
