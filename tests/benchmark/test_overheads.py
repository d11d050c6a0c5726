from catdog.benchmark.overheads import _run_in_process, import_config, start_python


def test_a_start_runs_in_a_process_of_its_own() -> None:
    assert _run_in_process(start_python) > 0
    assert _run_in_process(import_config) > 0
