from catdog.training.page.report import _classes_text, _drawn_warning, _uneven_text


def test_of_many_classes_six_are_named() -> None:
    assert _classes_text(["cat", "dog"]) == "cat, dog"
    assert _classes_text(list("abcdefgh")) == "a, b, c, d, e, f and 2 more classes"


def test_uneven_classes_are_said_and_how_the_training_weighted_them() -> None:
    assert _uneven_text({"cat": 100, "dog": 150}, {}) == ""
    assert _uneven_text({"cat": 0, "dog": 150}, {}) == ""
    assert _uneven_text({"cat": 100, "dog": 4}, {"class_weights": "auto"}) == (
        "The largest class has 25.0 times as many training photos as the smallest. Judge the model by its balanced "
        "accuracy, in which all classes count alike. Training weighted the classes."
    )


def test_a_model_of_the_drawn_sample_says_so() -> None:
    assert "trained on the sample of drawn pictures" in str(_drawn_warning({"photos": ""}))
    assert _drawn_warning({"photos": "PetImages"}) is None
    assert _drawn_warning({}) is None  # a run of an earlier version recorded no settings
