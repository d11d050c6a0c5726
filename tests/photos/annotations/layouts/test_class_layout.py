from __future__ import annotations

import pytest

from catdog.errors import UsageError
from catdog.photos.annotations.layouts.class_layout import assign_classes

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
        "train/CLASS/photo.jpg (next to it validation/, val/ or test/), or CLASS.1.jpg; "
        "folders around these and a zip of them are accepted; or give the labels by --labels FILE"
    )


def pictures(*folders: str, each: int = 2) -> list[str]:
    return [f"{folder}/{number}.jpg" for folder in folders for number in range(each)]


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("training_set", None, "test_set"),
        ("Training", None, "Testing"),
        ("train", "valid", None),
        ("train", "dev", None),
        ("train", "eval", "holdout"),
        ("imgs_train", "imgs-val", "imgs.test"),
        ("Train2019", "val2019", "test1"),
        ("cats_and_dogs_train", None, "cats_and_dogs_test"),
        ("trainset", "valset", "testset"),
        ("train_images", None, "held-out"),
        ("seg_train", "seg_val", "seg_test"),
        ("animals-10 (train)", None, "animals-10 (test)"),
        ("ImagesTrain", "ImagesVal", None),
    ],
)
def test_split_folders_of_usual_names_are_splits(train: str, validation: str | None, test: str | None) -> None:
    names = {"train": train, "validation": validation, "test": test}
    relatives = pictures(*(f"data/{name}/{animal}" for name in names.values() if name for animal in ("cat", "dog")))
    layout, assigned = assign_classes(relatives, source="photos")
    assert layout.classes == ("cat", "dog")
    hints = {relative.split("/")[1]: found[0] for relative, found in zip(relatives, assigned, strict=True) if found}
    assert hints == {name: split for split, name in names.items() if name}


@pytest.mark.parametrize(
    "name", ["training wheels", "protest", "evaluator", "Val d'Isère", "contest", "trainer", "dev kit"]
)
def test_a_class_whose_name_holds_such_a_word_is_a_class(name: str) -> None:
    layout, _ = assign_classes(pictures(name, "bus"), source="photos")
    assert set(layout.classes) == {name.lower(), "bus"}
    assert layout.notes == ()


def test_class_folders_may_be_wrapped_in_their_splits() -> None:
    relatives = pictures("train/images/cat", "train/images/dog", "test/pics/cat", "test/pics/dog")
    layout, assigned = assign_classes(relatives, source="photos")
    assert layout.classes == ("cat", "dog")
    assert assigned[0] == ("train", "cat")
    assert assigned[-1] == ("test", "dog")


def test_split_folders_may_be_inside_the_class_folders() -> None:
    layout, assigned = assign_classes(pictures("cat/train", "cat/test", "dog/train", "dog/test"), source="photos")
    assert layout.classes == ("cat", "dog")
    assert assigned[0] == ("train", "cat")
    assert assigned[-1] == ("test", "dog")


@pytest.mark.parametrize(
    "relatives",
    [
        pictures("alpha/cat", "alpha/dog", "beta/cat", "beta/dog"),
        pictures("data/alpha/cat", "data/alpha/dog", "data/alpha/eel", "data/beta/cat", "data/beta/dog"),
        pictures("alpha/images/cat", "alpha/images/dog", "beta/images/cat", "beta/images/dog"),
    ],
)
def test_folders_that_contain_the_same_folders_are_asked_about(relatives: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        assign_classes(relatives, source="photos")
    assert str(caught.value) == (
        "the folders alpha, beta all contain the folders cat, dog: if they are splits, name them, as in "
        "--splits train=alpha,test=beta; if they are classes, give --splits none"
    )
    layout, assigned = assign_classes(relatives, source="photos", splits="train=alpha, test=beta")
    assert {"cat", "dog"} <= set(layout.classes)
    assert assigned[0] == ("train", "cat")
    assert assigned[-1] == ("test", "dog")
    layout, assigned = assign_classes(relatives, source="photos", splits="none")
    assert layout.classes == ("alpha", "beta")
    assert set(assigned) == {(None, "alpha"), (None, "beta")}


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ("train=gamma", "--splits train=gamma: found no photos in a folder gamma; there are alpha, beta"),
        ("alpha", "--splits alpha: expected train=FOLDER,validation=FOLDER,test=FOLDER or none, found 'alpha'"),
        (
            "fit=alpha",
            "--splits fit=alpha: expected train=FOLDER,validation=FOLDER,test=FOLDER or none, found 'fit",
        ),
    ],
)
def test_splits_that_name_nothing_are_refused(splits: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        assign_classes(pictures("alpha/cat", "alpha/dog", "beta/cat", "beta/dog"), source="photos", splits=splits)
    assert str(caught.value).startswith(message)


def test_a_folder_called_as_a_split_without_class_folders_is_a_class_with_a_word() -> None:
    layout, _ = assign_classes(pictures("train", "bus"), source="photos")
    assert layout.classes == ("bus", "train")
    assert layout.notes == ("Used as a class, because it contains no class folders: train.",)


def test_what_stands_beside_the_splits_is_said() -> None:
    layout, _ = assign_classes(pictures("train/cat", "train/dog", "extra/cat"), source="photos")
    assert layout.notes == ("Skipped, because they are next to the split folders: extra.",)


@pytest.mark.parametrize(
    ("folders", "beside"),
    [
        (("images/cat", "images/dog", "annotations/trimaps"), "annotations"),
        (("PetImages/Cat", "PetImages/Dog", "extra"), "extra"),
        (("images/cat", "images/dog", "masks/cat", "masks/dog"), "masks"),
        (("data/images/cat", "data/images/dog", "data/labels/cat", "data/labels/dog"), "labels"),
    ],
)
def test_what_stands_beside_the_class_folders_is_no_class(folders: tuple[str, ...], beside: str) -> None:
    layout, assigned = assign_classes(pictures(*folders), source="photos")
    assert layout.classes == ("cat", "dog")
    assert assigned[-1] is None
    assert layout.notes == (f"Skipped, because it contains no class folders: {beside}.",)


def test_a_class_of_breeds_beside_a_flat_one_is_still_a_class() -> None:
    layout, _ = assign_classes(pictures("cat/siamese", "cat/persian", "dog"), source="photos")
    assert layout.classes == ("cat", "dog")


def test_folders_that_differ_in_case_are_one_class_with_a_line() -> None:
    layout, _ = assign_classes(pictures("Cat", "cat", "dog"), source="photos")
    assert layout.classes == ("cat", "dog")
    assert layout.notes == ("The folders Cat and cat are one class.",)


@pytest.mark.parametrize(
    ("relatives", "source"),
    [
        (pictures("cat"), "photos"),
        (pictures("test/cat"), "photos"),
        (["1.jpg", "2.jpg"], "/data/PetImages/Cat"),
        (["1.jpg", "2.jpg"], "s3://bucket/pets/cat/"),
        (pictures("cat/2019"), "photos"),
    ],
)
def test_one_class_is_enough_where_the_classes_are_known(relatives: list[str], source: str) -> None:
    _, assigned = assign_classes(relatives, source=source, known=("cat", "dog"))
    assert [found and found[1] for found in assigned] == ["cat", "cat"]


def test_known_classes_that_are_nowhere_are_said() -> None:
    with pytest.raises(UsageError, match="expected folders of the classes cat, dog in photos, found none in 2 files"):
        assign_classes(["1.jpg", "2.jpg"], source="photos", known=("cat", "dog"))


def test_a_class_that_is_called_as_no_photos_are_is_one_with_a_word() -> None:
    layout, _ = assign_classes(pictures("mask", "no mask", "wrong"), source="photos")
    assert layout.classes == ("mask", "no mask", "wrong")
    assert layout.notes == ("Used as a class, though its name suggests otherwise: mask.",)


def test_spaces_around_the_name_of_a_folder_make_no_other_class() -> None:
    layout, assigned = assign_classes(pictures("cat ", "cat", "dog"), source="photos")
    assert layout.classes == ("cat", "dog")
    assert layout.notes == ("The folders cat and cat  are one class.",)
    assert {found[1] for found in assigned if found} == {"cat", "dog"}


def test_a_folder_that_has_the_class_folders_again_is_no_class() -> None:
    relatives = pictures(
        "cell_images/sick", "cell_images/well", "cell_images/cell_images/sick", "cell_images/cell_images/well"
    )
    layout, assigned = assign_classes(relatives, source="photos")
    assert layout.classes == ("sick", "well")
    assert layout.notes == ("Skipped, because it contains the class folders again: cell_images.",)
    assert assigned[-1] is None


def test_classes_whose_names_begin_as_those_of_splits_get_a_word() -> None:
    layout, _ = assign_classes(pictures("trainA", "trainB", "testA", "testB"), source="photos")
    assert layout.notes == (
        "Used as a class, although its name begins like that of a split: testa, testb, traina, trainb.",
    )


def test_thousands_of_class_folders_are_no_work() -> None:
    relatives = [f"animal {number}/{view}/1.jpg" for number in range(3000) for view in ("left", "right")]
    layout, _ = assign_classes(relatives, source="photos")
    assert len(layout.classes) == 3000
