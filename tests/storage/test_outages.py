import pytest

from catdog.errors import FailureError
from catdog.storage import outages
from catdog.storage.outages import is_outage, wait_out

REFUSED = OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Could not connect to server")


class Store:
    """Fails `times` times, then answers; its clock advances only during pauses."""

    def __init__(self, times: float, error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left, self._error, self.seconds, self.tries = times, error, 0.0, 0
        monkeypatch.setattr(outages.time, "monotonic", lambda: self.seconds)
        monkeypatch.setattr(outages.time, "sleep", self._pass)

    def _pass(self, seconds: float) -> None:
        self.seconds += seconds

    def __call__(self) -> str:
        self.tries += 1
        self._left -= 1
        if self._left >= 0:
            raise self._error
        return "answer"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (str(REFUSED), True),
        ("AWS Error UNKNOWN (HTTP status 503) during GetObject operation", True),
        ("AWS Error SLOW_DOWN during PutObject operation", True),
        ("AWS Error ACCESS_DENIED during GetObject operation", False),
        ("AWS Error NO_SUCH_BUCKET during PutObject operation", False),
        ("[Errno 5] Input/output error", False),
    ],
)
def test_an_outage_is_told_from_an_answer(text: str, expected: bool) -> None:
    assert is_outage(OSError(text)) is expected


def test_a_store_that_comes_back_within_30_seconds_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store, retries = Store(30, REFUSED, monkeypatch), []
    assert wait_out(store, where="s3://bucket", on_retry=lambda: retries.append(None)) == "answer"
    assert (store.tries, len(retries), store.seconds) == (31, 30, 30.0)


def test_a_store_that_is_gone_for_good_ends_the_job_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(float("inf"), REFUSED, monkeypatch)
    with pytest.raises(FailureError, match=r"^cannot reach s3://bucket for 60 s: .*; run the same command to resume$"):
        wait_out(store, where="s3://bucket")
    assert store.seconds <= 62


def test_an_answer_of_the_store_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(1, PermissionError("denied"), monkeypatch)
    with pytest.raises(PermissionError):
        wait_out(store, where="s3://bucket")
    assert store.tries == 1


def test_the_environment_says_how_long_an_outage_may_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_PATIENCE_SECONDS", "600")
    assert wait_out(Store(300, REFUSED, monkeypatch), where="s3://bucket") == "answer"
    monkeypatch.setenv("CATDOG_PATIENCE_SECONDS", "ten")
    assert outages.patience_seconds() == 60.0
