from __future__ import annotations

import pytest

from catdog.errors import UsageError
from catdog.model.backbone_specs import BACKBONES, UNIT_SCALING, backbone_spec

# Parameters without the 1000-class top. B0 to B7: Keras's own summaries, minus the 7 parameters of their normalization
# layer. Lite: tensorflow/tpu's table (4.7, 5.4, 6.1, 8.2 and 13.0 million), minus the 1,281,000 of the top.
PARAMETERS = {
    "efficientnet-lite0": 3_413_024,
    "efficientnet-lite1": 4_189_344,
    "efficientnet-lite2": 4_869_168,
    "efficientnet-lite3": 6_992_768,
    "efficientnet-lite4": 11_837_936,
    "efficientnet-b0": 4_049_564,
    "efficientnet-b1": 6_575_232,
    "efficientnet-b2": 7_768_562,
    "efficientnet-b3": 10_783_528,
    "efficientnet-b4": 17_673_816,
    "efficientnet-b5": 28_513_520,
    "efficientnet-b6": 40_960_136,
    "efficientnet-b7": 64_097_680,
    "efficientnet-l2": 475_894_996,
}


def test_the_numbers_of_parameters_are_the_published_ones() -> None:
    assert {name: spec.weight_count() for name, spec in BACKBONES.items()} == PARAMETERS


def test_the_image_sizes_are_the_published_ones() -> None:
    assert [spec.image_size for spec in BACKBONES.values()] == [
        224, 240, 260, 280, 300, 224, 240, 260, 300, 380, 456, 528, 600, 800,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "size", "cut", "shape"),
    [
        ("efficientnet-lite0", 224, "head", (1280,)),
        ("efficientnet-b7", 600, "head", (2560,)),
        ("efficientnet-lite0", 224, "block7a_project_conv", (7, 7, 1152)),
        ("efficientnet-lite2", 260, "block7a_project_conv", (9, 9, 1248)),
        ("efficientnet-lite0", 320, "input", (320, 320, 3)),
        ("efficientnet-b0", 97, "top_conv", (4, 4, 320)),
        ("efficientnet-b0", 224, "block1a_dwconv", (112, 112, 32)),
        ("efficientnet-b0", 224, "block2a_dwconv", (112, 112, 96)),
        ("efficientnet-b0", 224, "block2b_expand_conv", (56, 56, 24)),
    ],
)
def test_the_shape_of_a_cut_is_known_without_the_network(
    name: str, size: int, cut: str, shape: tuple[int, ...]
) -> None:
    assert BACKBONES[name].cut_shapes(size)[cut] == shape


def test_the_inside_of_a_skip_connection_is_no_cut() -> None:
    cuts = BACKBONES["efficientnet-b1"].cut_shapes(240)
    assert "block2b_dwconv" not in cuts
    assert "block1b_project_conv" not in cuts


def test_an_unknown_backbone_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(
        UsageError, match=r"--backbone: expected one of efficientnet-lite0, .*, found 'efficientnet_b3'; did you mean"
    ) as caught:
        backbone_spec("efficientnet_b3")
    assert str(caught.value).endswith("did you mean efficientnet-b3?")


def test_weights_say_how_their_input_is_scaled() -> None:
    assert {BACKBONES[f"efficientnet-{short}"].scaling.scale[0] for short in ("lite0", "lite4")} == {1 / 128}
    assert BACKBONES["efficientnet-l2"].scaling == BACKBONES["efficientnet-b0"].scaling != UNIT_SCALING


@pytest.mark.parametrize(
    ("name", "published"),
    # M. Tan, Q. V. Le, ICML 2019; tensorflow/tpu, models/official/efficientnet/lite/README.md.
    [("efficientnet-b0", 390e6), ("efficientnet-lite0", 407e6), ("efficientnet-lite2", 899e6)],
)
def test_the_cost_of_an_image_is_that_which_was_published(name: str, published: float) -> None:
    spec = backbone_spec(name)
    assert spec.multiply_adds(spec.image_size) == pytest.approx(published, rel=0.06)
