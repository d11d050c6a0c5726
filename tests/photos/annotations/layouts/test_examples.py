"""One photo of each kind represents all photos of that kind."""

from __future__ import annotations

import pytest

from catdog.photos.annotations.layouts import examples
from catdog.photos.annotations.layouts.examples import Examples


def test_the_first_photo_of_each_folder_name_and_kind_stands_for_the_others() -> None:
    found = Examples()
    found.add(["b/cat.2.jpg", "b/cat.10.jpg", "b/dog.3.jpg", "b/notes.txt", "a/7.jpg"])
    found.add(["a/5.jpg", "b/cat.11.jpg"])
    assert found.relatives == ["a/5.jpg", "b/cat.10.jpg", "b/dog.3.jpg", "b/notes.txt"]


def test_names_of_no_known_class_count_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "MAX_NAMES", 1)
    found = Examples(["cat"])
    found.add(["dog.1.jpg", "cat.1.jpg", "eel.1.jpg", "fox.1.jpg", "dog.0.jpg"])
    assert found.relatives == ["cat.1.jpg", "dog.0.jpg", "eel.1.jpg"]
