import pytest

from catdog.command_line.settings import build_config
from catdog.config import TrainConfig
from catdog.training.stages import class_weights


class Counted:
    """A manifest of so many training photos of each class."""

    def __init__(self, *counts: int) -> None:
        self.classes = tuple("abc"[: len(counts)])
        self._counts = counts

    def counts(self) -> dict[str, dict[str, int]]:
        return {"train": dict(zip(self.classes, self._counts, strict=True))}


@pytest.mark.parametrize(
    ("asked", "counts", "weights"),
    [
        ("auto", (100, 140), ()),
        ("auto", (300, 100), (400 / 600, 400 / 200)),
        ("none", (300, 100), ()),
        ("balanced", (100, 100, 100), (1.0, 1.0, 1.0)),
    ],
)
def test_rare_classes_weigh_more_where_it_is_asked_for_or_the_counts_differ(
    asked: str, counts: tuple[int, ...], weights: tuple[float, ...]
) -> None:
    config = build_config(TrainConfig, {"class_weights": asked})
    assert class_weights(config, Counted(*counts)) == pytest.approx(weights)  # type: ignore[arg-type]
