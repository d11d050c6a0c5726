from typing import Any

import pyarrow as pa
import pytest

from catdog.command_line.settings import build_config
from catdog.config import TrainConfig
from catdog.errors import UsageError
from catdog.photos.decoding.framing import Framing
from catdog.photos.manifest import Manifest
from catdog.storage.schemas import MANIFEST, REJECTED
from catdog.training.stages import StageLayout, check_cut, class_weights


class Counted:
    """A manifest with these numbers of training photos, one number for each class."""

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


def make_manifest() -> Manifest:
    rows = [
        {"path": f"{split}/{row}.jpg", "label": row % 2, "class": "ab"[row % 2], "split": split,
         "digest": f"{split}{row}", "width": 1, "height": 1, "look": None}
        for split in ("train", "validation")
        for row in range(4)
    ]  # fmt: skip
    return Manifest(table=pa.Table.from_pylist(rows, MANIFEST), rejected=REJECTED.empty_table(), classes=("a", "b"))


def layout(**settings: Any) -> StageLayout:
    return StageLayout(build_config(TrainConfig, settings), make_manifest(), None, root="/features")


def test_size_and_framing_reach_the_model_and_name_the_features() -> None:
    plain = layout()
    assert (plain.spec.image_size, plain.spec.framing) == (224, Framing(resize="squash", resampling="bilinear"))
    framed = layout(image_size=250, resize="crop", resampling="bicubic")
    assert (framed.spec.image_size, framed.spec.framing) == (250, Framing(resize="crop", resampling="bicubic"))
    places = {made.stages()[0].validation.directory for made in (plain, framed, layout(image_size=250))}
    assert len(places) == 3


def test_a_solved_head_reads_every_view_and_needs_no_test_photos() -> None:
    solved, trained = (layout(views=views, **{"unfrozen.epochs": 0}).stages() for views in (0, 3))
    assert [stage.train.views for stage in (*solved, *trained)] == [(1, 2), (1, 2, 3)]  # type: ignore[union-attr]
    assert (solved[0].epochs, solved[0].test) == (1, None)


def test_symmetric_scaling_is_that_of_advprop_weights() -> None:
    assert layout(input_scaling="-1..1").spec.scaling == ((1 / 127.5,) * 3, (-1.0,) * 3)


def test_a_picture_too_small_for_any_model_is_refused_before_the_start() -> None:
    check_cut(build_config(TrainConfig, {"image_size": 32}))
    with pytest.raises(UsageError, match="--image-size: expected 0 or at least 32 pixels, found 31"):
        check_cut(build_config(TrainConfig, {"image_size": 31}))
