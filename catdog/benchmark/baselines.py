"""The baselines that catdog is compared with: programs that a careful engineer would write without Ray.

Each runs in its own process (`python -m catdog.benchmark.baselines NAME …`). The benchmark reads what it prints: the
number of rows labelled so far after each batch, or a line of JSON for each epoch.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from catdog.cluster.environment import prepare_environment
from catdog.config import RECIPE_DEFAULTS, AugmentationConfig
from catdog.model.backbone_specs import UNIT_SCALING
from catdog.model.saved_model import ClassifierSpec
from catdog.photos.manifest import read_manifest

_BATCH = 32
_BATCHES_AHEAD = 4
_LOADERS = 4  # processes that load photos in the article

Row = tuple[str, str | None, float | None, str | None]


def label_by_threads(photos: str, model_dir: str, target: str) -> None:
    """Label `photos` with threads that decode with Pillow, and TensorFlow in batches of 32; write Parquet to `target`.

    The threads read up to four batches ahead, and the model uses all cores.
    """
    paths, (run, classes, size) = _list(photos), _load_tensorflow(model_dir)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:

        def submit(batch: int) -> list[Future[Any]]:
            return [pool.submit(_decode, path, size) for path in paths[batch * _BATCH : (batch + 1) * _BATCH]]

        rows: list[Row] = []
        ahead = [submit(batch) for batch in range(_BATCHES_AHEAD)]
        for batch in range(-(-len(paths) // _BATCH)):
            ahead.append(submit(batch + _BATCHES_AHEAD))
            loaded = [future.result() for future in ahead.pop(0)]
            good = [image for image in loaded if isinstance(image, np.ndarray)]
            found = iter(run(np.stack(good)) if good else ())
            for path, image in zip(paths[batch * _BATCH :], loaded, strict=False):
                rows.append((path, None, None, image) if isinstance(image, str) else _row(path, next(found), classes))
            print(len(rows), flush=True)
    _write_rows(rows, target)


def label_by_tf_data(photos: str, model_dir: str, target: str) -> None:
    """Label `photos` with a tf.data pipeline that decodes in parallel and prefetches; write Parquet to `target`.

    TensorFlow's operations resize without antialiasing and ignore EXIF. Files that they cannot decode are left out,
    because `ignore_errors` does not report them.
    """
    run, classes, size = _load_tensorflow(model_dir)
    import tensorflow as tf

    def load(path: Any) -> tuple[Any, Any]:
        image = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        image.set_shape((None, None, 3))
        return path, tf.cast(tf.round(tf.image.resize(image, (size, size))), tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices(_list(photos)).map(load, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.ignore_errors().batch(_BATCH).prefetch(tf.data.AUTOTUNE)
    rows: list[Row] = []
    for paths, images in dataset:
        found = run(images.numpy())
        rows += [_row(path.decode(), chances, classes) for path, chances in zip(paths.numpy(), found, strict=True)]
        print(len(rows), flush=True)
    _write_rows(rows, target)


def _list(photos: str) -> list[str]:
    return sorted(str(path) for path in Path(photos).rglob("*") if path.is_file())


def _load_tensorflow(model_dir: str) -> tuple[Any, tuple[str, ...], int]:
    from catdog.model.engines import EngineSpec, read_model

    model = read_model(model_dir)
    run = EngineSpec(model=model).load(batch_size=_BATCH, threads=len(os.sched_getaffinity(0)))
    return run, model.spec.classes, model.spec.image_size


def _decode(path: str, size: int) -> np.ndarray | str:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(Path(path).read_bytes())) as image:
            image.draft("RGB", (size, size))
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except (OSError, ValueError) as error:
        return str(error)


def _row(path: str, chances: np.ndarray, classes: tuple[str, ...]) -> Row:
    label = int(np.argmax(chances))
    return path, classes[label], float(chances[label]), None


def _write_rows(rows: list[Row], target: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("path", "label", "probability", "error")
    pq.write_table(pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), target)


def train_by_the_article(manifest_dir: str, folder: str, epochs: int) -> None:
    """Train on the splits of a manifest as the article does, for `epochs` epochs of each stage; print a line for each.

    The recipe is the article's: Keras's ImageDataGenerator with four loader processes, scaling by 1/255, global max
    pooling, dropout 0.2, RMSprop at 2e-5 and batches of 16. Whole photos pass through the whole network in every epoch.
    Only the backbone differs: it is Lite0, because its weights come with a package. The function creates links to the
    photos below `folder`, by split and class.
    """
    started = time.monotonic()
    classes = _lay_out(manifest_dir, folder)
    model = _article_model(classes)
    train, validation = (_article_photos(f"{folder}/{split}", classes) for split in ("train", "validation"))
    for stage in ("frozen", "unfrozen"):
        _unfreeze(model, stage)
        for epoch, seconds, scores in _article_epochs(model, train, validation, epochs):
            print(json.dumps({"stage": stage, "epoch": epoch, "seconds": round(seconds, 3), **scores}), flush=True)
    print(json.dumps({"seconds": round(time.monotonic() - started, 3)}), flush=True)


def _lay_out(manifest_dir: str, folder: str) -> tuple[str, ...]:
    """Link the training and validation photos below `folder`, by split and class; return the classes."""
    manifest = read_manifest(manifest_dir)
    for row, photo in enumerate(manifest.sample(1 << 40).to_pylist()):
        if photo["split"] in ("train", "validation"):
            place = Path(folder, photo["split"], photo["class"])
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{row:06d}{Path(photo['path']).suffix}").symlink_to(photo["path"])
    return manifest.classes


def _article_model(classes: tuple[str, ...]) -> Any:
    from catdog.model import backbones
    from catdog.model import classifier as model
    from catdog.model.weights.pretrained import load_weights

    spec = ClassifierSpec(
        backbone="efficientnet-lite0", image_size=224, classes=classes, pooling="max", dropout=0.2,
        scaling=UNIT_SCALING,
    )  # fmt: skip
    classifier, pretrained = model.build_classifier(spec), load_weights(spec.backbone, weights="imagenet")
    assert pretrained is not None
    backbones.load_pretrained(classifier, pretrained)
    return classifier


def _article_photos(folder: str, classes: tuple[str, ...]) -> Any:
    from tf_keras.preprocessing.image import ImageDataGenerator

    ranges = AugmentationConfig()
    # The classifier scales its input, so there is no rescale=1/255 here.
    generator = ImageDataGenerator(
        rotation_range=ranges.rotation_degrees,
        width_shift_range=ranges.width_shift_fraction,
        height_shift_range=ranges.height_shift_fraction,
        shear_range=ranges.shear_degrees,
        zoom_range=ranges.zoom_fraction,
        horizontal_flip=ranges.horizontal_flip,
        fill_mode="nearest",
    )
    batch = RECIPE_DEFAULTS["article"]["frozen.global_batch_size"]
    return generator.flow_from_directory(folder, (224, 224), batch_size=batch, classes=list(classes))


def _unfreeze(model: Any, stage: str) -> None:
    """Make the layers trainable that the article trains in `stage`, and compile the model.

    The frozen stage trains the head. The unfrozen stage also trains all layers from `block7a_project_conv` on, which
    are those after `multiply_16` in the article.
    """
    import tf_keras

    trainable = stage == "unfrozen"
    from_here = False
    for layer in model.layers:
        from_here = from_here or layer.name == "block7a_project_conv"
        layer.trainable = layer.name == "fc_out" or (trainable and from_here)
    rate = RECIPE_DEFAULTS["article"][f"{stage}.learning_rate"]
    model.compile(tf_keras.optimizers.RMSprop(rate), "categorical_crossentropy", ["accuracy"])


def _article_epochs(
    model: Any, train: Any, validation: Any, epochs: int
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Train one stage and yield (epoch, its seconds, its scores) after each epoch."""
    for epoch in range(1, epochs + 1):
        start = time.monotonic()
        history = model.fit(
            train,
            steps_per_epoch=max(1, train.samples // train.batch_size),
            validation_data=validation,
            validation_steps=max(1, validation.samples // validation.batch_size),
            workers=_LOADERS,
            use_multiprocessing=True,
            verbose=0,
        ).history
        yield epoch, time.monotonic() - start, {
            "acc": float(history["accuracy"][0]), "val_acc": float(history["val_accuracy"][0])
        }  # fmt: skip


def main(name: str, *arguments: str) -> None:
    """Run the program `name`: threads or tf-data PHOTOS MODEL TARGET, or article MANIFEST FOLDER EPOCHS."""
    prepare_environment(verbose=False)
    if name == "article":
        manifest, folder, epochs = arguments
        train_by_the_article(manifest, folder, int(epochs))
    else:
        {"threads": label_by_threads, "tf-data": label_by_tf_data}[name](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
