from __future__ import annotations

import io

import h5py
import numpy as np
import pytest

from catdog.errors import UsageError
from catdog.model.backbone_specs import BACKBONES, IMAGENET_MEAN, IMAGENET_STDDEV, Scaling
from catdog.model.weights.weights_file import check_tensors, parse_tensors, parse_weights

KERNEL = np.arange(3 * 3 * 3 * 32, dtype=np.float32).reshape(3, 3, 3, 32)
GAMMA = np.linspace(0, 1, 32, dtype=np.float32)
BOTH = {"stem_conv/stem_conv/kernel:0": KERNEL, "stem_bn/stem_bn/gamma:0": GAMMA}
SHAPES = {"stem_conv": {"kernel": (3, 3, 3, 32)}, "stem_bn": {"gamma": (32,)}}


def h5(datasets: dict[str, object], *, root: str = "", in_layout: bool = True) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        group = file.require_group(root) if root else file
        if in_layout:
            group.attrs["layer_names"] = [path.split("/")[0] for path in datasets]
        for path, array in datasets.items():
            group[path] = array
    return stream.getvalue()


def parse(content: bytes, backbone: str = "efficientnet-b0") -> tuple[dict[str, dict[str, np.ndarray]], Scaling]:
    return parse_tensors(content, backbone=backbone, where="weights.h5")


def normalization(mean: object, variance: object, *, name: str = "normalization") -> dict[str, object]:
    return {f"{name}/mean:0": mean, f"{name}/variance:0": variance, f"{name}/count:0": np.int64(0)}


@pytest.mark.parametrize(
    "content",
    [
        h5(BOTH),
        h5({path.split("/", 1)[1]: array for path, array in BOTH.items()}),
        h5({path.split(":")[0]: array for path, array in BOTH.items()}),
        h5({f"efficientnet-b0/{path}": array for path, array in BOTH.items()}),
        h5({f"efficientnet-b0/efficientnet-b0/{path}": array for path, array in BOTH.items()}),
        h5(BOTH, root="model_weights"),
        h5(BOTH | {"predictions/predictions/kernel:0": np.zeros((1280, 1000))}),
    ],
    ids=["weights", "flat", "without :0", "nested", "nested and prefixed", "whole model", "with top"],
)
def test_every_way_that_keras_lays_out_a_file_is_read(content: bytes) -> None:
    tensors, scaling = parse(content)
    check_tensors(tensors, shapes=SHAPES, where="weights.h5")
    np.testing.assert_array_equal(tensors["stem_conv"]["kernel"], KERNEL)
    np.testing.assert_array_equal(tensors["stem_bn"]["gamma"], GAMMA)
    assert scaling == BACKBONES["efficientnet-b0"].scaling


def test_a_depthwise_kernel_is_known_under_keras_3_s_name_too() -> None:
    assert "depthwise_kernel" in parse(h5({"block1a_dwconv/kernel": KERNEL}))[0]["block1a_dwconv"]


def test_the_default_scalings_are_the_published_preprocessing() -> None:
    image = np.array([0.0, 100.0, 255.0])
    scale, offset = BACKBONES["efficientnet-b0"].scaling
    np.testing.assert_allclose(image * scale + offset, (image / 255 - IMAGENET_MEAN) / IMAGENET_STDDEV)
    scale, offset = BACKBONES["efficientnet-lite0"].scaling
    np.testing.assert_allclose(image * scale + offset, (image - 127) / 128)


def test_a_file_that_was_never_normalized_expects_one_255th() -> None:
    tensors, scaling = parse(h5(BOTH | normalization(np.zeros(3), np.ones(3))))
    assert tensors.keys() == SHAPES.keys()
    np.testing.assert_allclose(scaling, [[1 / 255] * 3, [0] * 3])


@pytest.mark.parametrize("variance", [np.array(IMAGENET_STDDEV), np.square(IMAGENET_STDDEV)])
def test_the_published_file_and_a_rightly_normalized_one_expect_the_same(variance: np.ndarray) -> None:
    _, scaling = parse(h5(BOTH | normalization(np.array(IMAGENET_MEAN), variance, name="normalization_1")))
    np.testing.assert_allclose(scaling, BACKBONES["efficientnet-b0"].scaling, rtol=1e-5)


def test_a_normalization_layer_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match=r"weights\.h5: its normalization layer"):
        parse(h5(BOTH | normalization(np.zeros(1), np.ones(1))))


def test_a_file_of_two_backbones_is_refused() -> None:
    with pytest.raises(UsageError, match="holds stem_conv/kernel twice"):
        parse(h5({"a/stem_conv/kernel:0": KERNEL, "b/stem_conv/kernel:0": KERNEL}))


def test_a_file_without_layer_names_is_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match=r"no layer_names.*tf_keras"):
        parse(h5({"layers/conv2d/vars/0": KERNEL}, in_layout=False))


def test_a_broken_file_is_refused() -> None:
    whole = h5(BOTH)
    with pytest.raises(UsageError, match=r"weights\.h5: cannot be read as HDF5"):
        parse(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"weights\.h5: not a torch state-dict file"):
        parse(b"<html>404</html>")


def test_what_does_not_fit_is_listed() -> None:
    tensors, _ = parse(h5({"stem_conv/kernel:0": KERNEL[..., :8], "head/bias:0": GAMMA}))
    with pytest.raises(UsageError) as caught:
        check_tensors(tensors, shapes=SHAPES, where="weights.h5")
    assert str(caught.value) == (
        "weights.h5: its tensors do not fit the backbone: 1 missing: stem_bn/gamma; 1 extra: head/bias; "
        "1 mis-shaped: stem_conv/kernel (3, 3, 3, 8) instead of (3, 3, 3, 32)"
    )


def test_a_long_list_is_cut_short() -> None:
    with pytest.raises(UsageError, match=r"9 missing: a0/x, a1/x, a2/x, a3/x, a4/x, a5/x and 3 more$"):
        check_tensors({}, shapes={f"a{n}": {"x": (1,)} for n in range(9)}, where="weights.h5")


def test_a_pointer_of_git_lfs_is_named_as_such() -> None:
    content = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 14000000\n"
    with pytest.raises(UsageError, match=r"weights\.h5: is a pointer of Git LFS.*git lfs pull"):
        parse(content)


def test_a_file_of_other_shapes_is_refused_when_the_shapes_are_known() -> None:
    with pytest.raises(UsageError, match=r"1 mis-shaped: stem_bn/gamma \(32,\) instead of \(8,\)"):
        parse_weights(h5(BOTH), shapes={**SHAPES, "stem_bn": {"gamma": (8,)}}, where="weights.h5")
