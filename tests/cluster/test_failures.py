from catdog.cluster.failures import root_cause


def test_the_root_cause_is_the_first_exception_that_is_not_ray_s() -> None:
    text = (
        "ray::Worker.run() (pid=1)\n  File 'x.py', line 3\nValueError: bad shape\n\n"
        "The above exception was the direct cause\nray.exceptions.UserCodeException: UDF failed\nTo change retry"
    )
    assert root_cause(RuntimeError(text)) == "ValueError: bad shape"
    assert root_cause(RuntimeError("plain words")) == "plain words"
    assert root_cause(RuntimeError()) == "RuntimeError"
