"""Which settings change features, and which a sweep may vary."""

from __future__ import annotations

import pytest

from catdog.command_line.settings import build_config
from catdog.config import TrainConfig
from catdog.errors import UsageError
from catdog.tuning.layouts import check_effects, check_layouts, default_values, layout_key, list_layouts
from catdog.tuning.space import Space, parse_space

BASE = build_config(TrainConfig, {"unfrozen.epochs": 3, "frozen.head": "epochs"})


def space_of(**texts: str) -> Space:
    return parse_space(TrainConfig, {key.replace("__", "."): text for key, text in texts.items()})


def test_every_setting_of_the_network_changes_features_and_none_of_the_steps_does() -> None:
    space = space_of(
        backbone="choice:efficientnet-lite0,efficientnet-lite2",
        image_size="choice:224,288",
        views="choice:1,3",
        augmentation__zoom_fraction="choice:0,0.2",
        unfrozen__unfreeze_from="choice:head,block7a_project_conv",
        dropout="uniform:0,0.5",
        class_weights="choice:none,balanced",
        frozen__learning_rate="loguniform:1e-4,1e-2",
        unfrozen__weight_decay="loguniform:1e-6,1e-3",
    )
    assert layout_key(space, BASE, {"views": 3, "dropout": 0.4}) == (
        "efficientnet-lite0", 0, 3, 0.2, "block7a_project_conv",
    )  # fmt: skip


def test_each_combination_that_a_trial_needs_has_one_layout() -> None:
    space = space_of(pooling="choice:avg,max", views="choice:1,2", dropout="uniform:0,0.5")
    trials = [
        default_values(BASE, space),
        {"pooling": "max", "views": 1, "dropout": 0.1},
        {"pooling": "max", "views": 1, "dropout": 0.2},
    ]
    assert list_layouts(space, BASE, trials) == {
        ("avg", 0): {"pooling": "avg", "views": 0},
        ("max", 1): {"pooling": "max", "views": 1},
    }
    assert len(list_layouts(space, BASE, None)) == 5  # every combination, and the defaults


def test_a_setting_that_changes_features_takes_values_and_no_range() -> None:
    with pytest.raises(UsageError, match="views: each value needs its own trunk pass"):
        check_layouts(space_of(views="randint:1,3"), BASE)
    with pytest.raises(UsageError, match="expected all trials to have the unfrozen stage, or none"):
        check_layouts(space_of(unfrozen__epochs="choice:0,3"), BASE)


def test_a_setting_that_no_trial_uses_is_refused() -> None:
    solved = build_config(TrainConfig, {"frozen.head": "logistic", "unfrozen.epochs": 0})
    for text, reason in (
        ({"dropout": "uniform:0,0.5"}, "a solved head does not use dropout"),
        ({"frozen__optimizer": "choice:adam,sgd"}, "the head is solved as a logistic regression"),
        ({"unfrozen__patience": "randint:1,3"}, "there is no unfrozen stage"),
    ):
        with pytest.raises(UsageError, match=f"it would have no effect, because {reason}"):
            check_effects(space_of(**text), solved)
    with pytest.raises(UsageError, match="the head is trained in epochs"):
        check_effects(space_of(frozen__c="uniform:0.1,1"), BASE)
    check_effects(space_of(frozen__head="choice:logistic,epochs", frozen__c="uniform:0.1,1"), BASE)
