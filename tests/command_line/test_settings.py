from __future__ import annotations

import dataclasses
import pickle

import pytest

from catdog.command_line.settings import SettingError, Settings, build_config, convert_setting, flatten_config, setting
from catdog.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Oven(Settings):
    degrees: float = setting(180.0, "heat", low=50, high=300)
    fan: bool = setting(False, "with the fan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cake(Settings):
    eggs: int = setting(3, "eggs", low=1, also=("ova",))
    dough: str = setting("yeast", "kind of dough", choices=("yeast", "shortcrust"), identity=False)
    toppings: tuple[str, ...] = setting((), "what goes on top")
    oven: Oven = dataclasses.field(default_factory=Oven)


def test_flat_values_build_a_config_and_come_back() -> None:
    config = build_config(Cake, {"eggs": 5, "oven.degrees": 200.0})
    assert config == Cake(eggs=5, oven=Oven(degrees=200.0))
    assert flatten_config(config) == {
        "eggs": 5, "dough": "yeast", "toppings": (), "oven.degrees": 200.0, "oven.fan": False,
    }  # fmt: skip
    assert "dough" not in flatten_config(config, identity_only=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eggs": 0}, "--eggs: expected a number at least 1, found 0"),
        ({"eggs": 2.5}, "--eggs: expected a whole number, found 2.5"),
        ({"eggs": True}, "--eggs: expected a whole number, found True"),
        ({"dough": "yaest"}, "--dough: expected one of yeast, shortcrust, found 'yaest'; did you mean yeast?"),
        ({"toppings": (1,)}, "--toppings: expected a list of strings, found (1,)"),
        ({"oven.degrees": float("nan")}, "--oven.degrees: expected a number from 50 to 300, found nan"),
        ({"oven.fan": "no"}, "--oven.fan: expected true or false, found 'no'"),
        ({"oven.degree": 9}, "there is no setting oven.degree; did you mean --oven.degrees?"),
        ({"ova": 9}, "there is no setting ova; did you mean --eggs?"),
    ],
)
def test_a_wrong_value_is_named_by_its_flag(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_config(Cake, values)
    assert str(caught.value) == message


def test_the_class_itself_refuses_what_is_out_of_range() -> None:
    with pytest.raises(SettingError, match="--degrees: expected a number from 50 to 300, found 1000"):
        Oven(degrees=1000)
    with pytest.raises(SettingError):
        dataclasses.replace(Cake(), eggs=0)


def test_an_error_survives_the_way_from_another_process() -> None:
    found = pickle.loads(pickle.dumps(SettingError("oven.fan", "expected true or false, found 3")))
    assert str(found) == "--oven.fan: expected true or false, found 3"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [("eggs", "4", 4), ("oven.degrees", "2e2", 200.0), ("oven.fan", "Yes", True), ("oven.fan", "off", False)],
)
def test_a_text_becomes_the_setting_s_own_type(key: str, text: str, value: object) -> None:
    assert convert_setting(Cake, key, text, flag="") == value


def test_a_text_of_another_type_names_where_it_came_from() -> None:
    with pytest.raises(UsageError, match=r"^--space\.eggs: expected a whole number, found 'many'$"):
        convert_setting(Cake, "eggs", "many", flag="--space.eggs")
