import pytest

from catdog.__main__ import JOBS
from catdog.command_line.arguments import parse_arguments
from catdog.command_line.settings import build_config, fields_of, flatten_config
from catdog.config import TrainConfig


def test_the_article_recipe_is_the_article_s() -> None:
    config = parse_arguments(TrainConfig, ["--recipe", "article"], description="train")
    assert (config.backbone, config.input_scaling, config.pooling) == ("efficientnet-b0", "1/255", "max")
    assert (config.train_per_class, config.validation_per_class, config.test_per_class) == (1000, 500, 0)
    assert (config.dropout, config.views, config.augment_validation) == (0.2, 0, True)
    for stage, epochs in ((config.frozen, 100), (config.unfrozen, 200)):
        assert (stage.epochs, stage.optimizer, stage.learning_rate, stage.global_batch_size) == (
            epochs,
            "rmsprop",
            2e-5,
            16,
        )
    assert config.unfrozen.unfreeze_from == "block7a_project_conv"
    augmentation = config.augmentation
    assert (augmentation.rotation_degrees, augmentation.shear_degrees, augmentation.zoom_fraction) == (40.0, 0.2, 0.2)
    assert (augmentation.width_shift_fraction, augmentation.height_shift_fraction) == (0.2, 0.2)
    assert augmentation.horizontal_flip is True


def test_where_a_run_goes_and_what_of_the_cluster_it_uses_do_not_change_its_identity() -> None:
    identity = flatten_config(TrainConfig(), identity_only=True)
    assert not {"run_dir", "verbose", "cluster.workers", "cache_budget_gib"} & identity.keys()
    assert {"dropout", "frozen.learning_rate", "seed", "augmentation.zoom_fraction"} <= identity.keys()


@pytest.mark.parametrize("job", JOBS)
def test_no_word_that_people_try_for_a_setting_is_the_name_of_another(job: str) -> None:
    fields = fields_of(JOBS[job].config_class)
    names = {key.rpartition(".")[2] for key in fields}
    for key, field in fields.items():
        assert not names & set(field.metadata["also"]), key


@pytest.mark.parametrize("job", JOBS)
def test_every_default_is_a_value_that_the_setting_takes(job: str) -> None:
    config_class = JOBS[job].config_class
    for recipe in getattr(config_class, "recipes", {"default": {}}).values():
        build_config(config_class, recipe)
    for key, field in fields_of(config_class).items():
        assert field.metadata["help"], key
        assert "knob" not in field.metadata["help"]
