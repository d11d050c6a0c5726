from __future__ import annotations

import pytest

from catdog.errors import UsageError
from catdog.photos.annotations.class_layout import assign_classes

CAT, DOG = (None, "cat"), (None, "dog")
TRAIN_CAT, TRAIN_DOG = ("train", "cat"), ("train", "dog")
VALIDATION_CAT, TEST_DOG = ("validation", "cat"), ("test", "dog")


@pytest.mark.parametrize(
    "expected",
    [
        pytest.param({"Cat/1.jpg": CAT, "dog/1.jpg": DOG, "CAT/2.jpg": CAT}, id="class folders"),
        pytest.param(
            {
                "PetImages/Cat/1.jpg": CAT,
                "PetImages/Cat/Thumbs.db": CAT,
                "PetImages/Dog/old/2019/1.jpg": DOG,
                "PetImages/stray.jpg": None,
                "docs/licence.docx": None,
                "readme[1].txt": None,
            },
            id="wrapped class folders, as in Microsoft's archive",
        ),
        pytest.param(
            {
                "data/small/Train/cat/1.jpg": TRAIN_CAT,
                "data/small/Train/dog/1.jpg": TRAIN_DOG,
                "data/small/val/cat/deep/1.jpg": VALIDATION_CAT,
                "data/small/validation/cat/2.jpg": VALIDATION_CAT,
                "data/small/TEST/dog/1.jpg": TEST_DOG,
                "data/small/TEST/1.jpg": None,
                "data/small/extra/cat/1.jpg": None,
            },
            id="split folders",
        ),
        pytest.param({"train/cat.0.jpg": CAT, "train/dog.0.jpg": DOG, "test1/1.jpg": None}, id="Kaggle's competition"),
        pytest.param({"train/train/cat.0.jpg": CAT, "train/train/Dog.0.jpg": DOG, "test/test/1.jpg": None}, id="twice"),
        pytest.param({"cat.0.jpg": CAT, "dog.12.jpg": DOG, "sub/dog.13.jpg": DOG, "cat.jpg": None}, id="names"),
        pytest.param(
            {"train/cat.0.jpg": TRAIN_CAT, "train/dog.0.jpg": TRAIN_DOG, "val/cat.1.jpg": VALIDATION_CAT},
            id="names in split folders",
        ),
        pytest.param(
            {"train/cat/cat.0.jpg": TRAIN_CAT, "train/dog/dog.0.jpg": TRAIN_DOG, "test/dog/dog.1.jpg": TEST_DOG},
            id="names and folders, as the article has it",
        ),
        pytest.param({"train/cat/1.jpg": CAT, "train/dog/1.jpg": DOG}, id="one split folder alone says nothing"),
        pytest.param({"validation/cat/1.jpg": CAT, "validation/dog/1.jpg": DOG}, id="nor does validation"),
        pytest.param({"train/1.jpg": (None, "train"), "bus/1.jpg": (None, "bus")}, id="a class called train"),
        pytest.param({"Cat/img.1.jpg": CAT, "Dog/pic.1.jpg": DOG}, id="folders go before names"),
        pytest.param({"e\u0301/1.jpg": (None, "é"), "É/1.jpg": (None, "é"), "猫/1.jpg": (None, "猫")}, id="any script"),
        pytest.param({"cat/1": CAT, "dog/1": DOG}, id="without suffixes every file decides"),
    ],
)
def test_layouts(expected: dict[str, tuple[str | None, str] | None]) -> None:
    _, assigned = assign_classes(list(expected), source="photos")
    assert dict(zip(expected, assigned, strict=True)) == expected


@pytest.mark.parametrize(
    ("relatives", "found"),
    [
        (["1.jpg", "2.jpg"], "found none in 2 files, such as 1.jpg"),
        (["cat/1.jpg", "readme"], "found only the class cat in 2 files, such as cat/1.jpg"),
        (["train/cat/1.jpg", "test/cat/1.jpg"], "found only the class cat in 2 files, such as test/cat/1.jpg"),
    ],
)
def test_fewer_than_two_classes_are_the_users_mistake(relatives: list[str], found: str) -> None:
    with pytest.raises(UsageError) as raised:
        assign_classes(relatives, source="photos")
    assert str(raised.value) == (
        f"expected photos of two classes or more in photos, {found}; lay them out as CLASS/photo.jpg, or "
        "train/CLASS/photo.jpg (beside it validation/, val/ or test/), or CLASS.1.jpg; "
        "folders around these and a zip of them will do"
    )
