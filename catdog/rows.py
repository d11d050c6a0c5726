"""The contracts: the schema of every row that is stored."""

from __future__ import annotations

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
    ]
)

REJECTED = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # "code: message"
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
