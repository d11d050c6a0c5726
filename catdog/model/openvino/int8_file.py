"""Reads the quantized graph next to a model's weights, and checks its content before it is trusted.

It is in OpenVINO's own format, an XML file of operations and a file of constants. Only the operations that remain of
our graph after quantization are allowed, which are all arithmetic.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from catdog.errors import FailureError, UsageError, one_line
from catdog.model.openvino.graph import import_openvino
from catdog.storage import files

GRAPH_FILE, CONSTANTS_FILE = "int8.xml", "int8.bin"
CARD_KEY = "int8"  # of the model card's entry about it
_XML_START = b'<?xml version="1.0"?>'
_LARGEST_XML = 64 * 2**20
_OPERATIONS = frozenset(
    {
        *("Parameter", "Const", "Result", "Convert", "FakeQuantize", "Transpose"),
        *("Convolution", "GroupConvolution", "MatMul", "Add", "Subtract", "Multiply"),
        *("Clamp", "Swish", "Sigmoid", "SoftMax", "ReduceMean", "ReduceMax"),
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Int8Graph:
    """A quantized graph in memory."""

    xml: bytes
    constants: bytes

    @property
    def checksum(self) -> str:
        """Return the SHA-256 of the graph and its constants, in hex."""
        return hashlib.sha256(self.xml + self.constants).hexdigest()

    def load(self) -> Any:
        """Return the openvino.Model. Raises FailureError when OpenVINO cannot read it."""
        try:
            return import_openvino().Core().read_model(model=self.xml, weights=self.constants)
        except RuntimeError as error:
            raise FailureError(f"the model: {GRAPH_FILE} cannot be used: {one_line(error)}") from error


def read_int8(model_dir: str, *, card: Mapping[str, Any], weights: bytes) -> Int8Graph:
    """Read the quantized graph of the model whose card is `card` and whose weights.h5 has the content `weights`.

    Raises UsageError if there is none, if it belongs to other weights, or if it holds more than arithmetic.
    """
    said = card.get(CARD_KEY)
    if not isinstance(said, Mapping):
        raise UsageError(
            f"--precision int8: {model_dir} has no quantized graph; "
            f"make one with: python jobs/export.py --to int8 --model {model_dir}"
        )
    try:
        xml, constants = (
            files.read_bytes(files.join(files.absolute(model_dir), name)) for name in (GRAPH_FILE, CONSTANTS_FILE)
        )
    except OSError as error:
        raise UsageError(f"{model_dir}: its quantized graph cannot be read: {one_line(error)}") from error
    graph = Int8Graph(xml=xml, constants=constants)
    _check_operations(xml, where=f"{model_dir}/{GRAPH_FILE}")
    wanted = (graph.checksum, hashlib.sha256(weights).hexdigest())
    if (said.get("checksum"), said.get("weights")) != wanted:
        raise UsageError(
            f"{model_dir}: {GRAPH_FILE} belongs to other weights or another card: quantize it again with "
            "python jobs/export.py --to int8"
        )
    return graph


def _check_operations(xml: bytes, *, where: str) -> None:
    """Raise UsageError unless all layers in `xml` are arithmetic."""
    # Without a document type there are no entities, which could expand without bound or refer to other files.
    if len(xml) > _LARGEST_XML or not xml.startswith(_XML_START) or b"<!" in xml or b"\0" in xml:
        raise UsageError(f"{where}: expected a graph as OpenVINO writes it")
    try:
        found = {layer.get("type", "") for layer in ElementTree.fromstring(xml).iter("layer")}
    except (ElementTree.ParseError, RecursionError) as error:
        raise UsageError(f"{where}: expected XML, found {one_line(error)}") from error
    if not found or found - _OPERATIONS:
        strange = ", ".join(sorted(found - _OPERATIONS)) or "none"
        raise UsageError(f"{where}: expected the operations of a classifier, found {strange}")
