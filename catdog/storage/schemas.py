"""The schemas of all stored rows."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from catdog.errors import FailureError

SPLITS = ("train", "validation", "test")
UNUSED = "unused"

MANIFEST = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("class", pa.string(), nullable=False),
        # One of SPLITS, or UNUSED for a good photo that no split had room for.
        pa.field("split", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),  # sha256 of the file's bytes, hex
        pa.field("width", pa.int32(), nullable=False),  # pixels, after EXIF orientation
        pa.field("height", pa.int32(), nullable=False),
        # See evaluation/near_duplicates.py; null if the photo has hardly any contrast, and in old manifests.
        pa.field("perceptual_hash", pa.uint64()),
    ]
)

# Small pictures for a report. A name is a path of the manifest; "heat" shows where in the photo the model looked.
PICTURES = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # photo or heat
        pa.field("jpeg", pa.binary(), nullable=False),
    ]
)

REJECTED = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # "code: message"
    ]
)

UNSURE = "unsure"  # the label of a photo whose greatest probability is below the threshold


def prediction_schema(classes: Sequence[str], *, top_k: int = 1, models: int = 1, first_rank: int = 2) -> pa.Schema:
    """Return the columns of a prediction: one row for each input path.

    label (class name, UNSURE, null on error), probability (of the most probable class), p_<class> for each class,
    error ("code: message", null for a photo that has a label). With `top_k` over 1 the next classes follow as
    top2_label, top2_probability …, starting at `first_rank`. If that is 1, top1_label is the most probable class even
    when label is UNSURE. A second model's columns are second_label, second_probability, second_p_<class>.
    """
    fields = [pa.field("path", pa.string(), nullable=False)]
    for model in range(models):
        prefix = "second_" if model else ""
        fields += [pa.field(f"{prefix}label", pa.string()), pa.field(f"{prefix}probability", pa.float32())]
        fields += [pa.field(f"{prefix}p_{name}", pa.float32()) for name in classes]
        for rank in range(first_rank, top_k + 1):
            fields.append(pa.field(f"{prefix}top{rank}_label", pa.string()))
            fields.append(pa.field(f"{prefix}top{rank}_probability", pa.float32()))
    return pa.schema([*fields, pa.field("error", pa.string())])


def outcome_schema(classes: Sequence[str]) -> pa.Schema:
    """Return the columns of an outcome: the prediction of a train run for a photo whose class is known."""
    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),  # validation or test
            pa.field("true", pa.string(), nullable=False),  # class name
            pa.field("label", pa.string(), nullable=False),  # class name, the most probable one
            pa.field("probability", pa.float32(), nullable=False),  # of `label`
            *(pa.field(f"p_{name}", pa.float32(), nullable=False) for name in classes),
        ]
    )


def check_schema(table: pa.Table, schema: pa.Schema, *, where: str) -> pa.Table:
    """Return `table` with its columns in the order of `schema`.

    Raises FailureError, naming `where`, when a column is missing, additional or of another type.
    """
    found = {field.name: field.type for field in table.schema}
    wanted = {field.name: field.type for field in schema}
    if found != wanted:
        raise FailureError(
            f"{where}: expected the columns {_columns(wanted)}, found {_columns(found)}; "
            "the file was not written by this version of catdog: delete it and run the step again"
        )
    return table.select(schema.names)


def _columns(types: dict[str, pa.DataType]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in types.items())
