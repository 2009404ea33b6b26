"""Fields of settings, on a dataclass of the test's own: keys, conversion, bounds and the table."""

from dataclasses import dataclass

import pytest

from competition.common.errors import UserError
from competition.common.settings import (
    choice,
    flatten,
    list_fields,
    number,
    set_value,
    switch,
    tabulate,
    text,
)


@dataclass(frozen=True)
class Oven:
    """How hot it gets."""

    degrees: float = number(180.0, "temperature in degrees Celsius", low=20, high=250)
    fan: bool = switch(False, "hot air")


@dataclass(frozen=True)
class Recipe:
    """A cake."""

    name: str = text("", "title of the recipe")
    eggs: int = number(3, "whole eggs")
    flour: str = choice("wheat", "kind of flour", ("wheat", "rye"))
    oven: Oven = Oven()


def test_keys_are_dotted_in_sections_and_in_the_order_of_the_fields() -> None:
    assert flatten(Recipe()) == {
        "name": "",
        "eggs": 3,
        "flour": "wheat",
        "oven.degrees": 180.0,
        "oven.fan": False,
    }
    assert list_fields(Recipe())["oven.fan"].metadata["line"] == "hot air"


def test_a_value_is_set_in_its_section_alone() -> None:
    given = Recipe()
    assert set_value(given, "oven.degrees", "200") == Recipe(oven=Oven(degrees=200.0))
    assert set_value(given, "eggs", "4") == Recipe(eggs=4)
    assert given == Recipe()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("eggs", "-1", "a whole number from 0 up"),
        ("eggs", "1e400", "a whole number from 0 up"),
        ("eggs", "３", "a whole number from 0 up"),
        ("oven.degrees", "inf", "a number from 20 to 250"),
        ("oven.fan", "yes", "true or false"),
        ("flour", "rice", "one of wheat, rye"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_one_sentence(
    key: str, value: str, expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        set_value(Recipe(), key, value)
    assert str(caught.value) == f"Setting {key} got '{value}', and expects {expected}."


def test_a_section_is_no_setting() -> None:
    with pytest.raises(UserError, match="Unknown setting 'oven'"):
        set_value(Recipe(), "oven", "hot")


def test_the_table_aligns_the_keys_of_a_section_and_wraps_lines_but_not_bounds() -> None:
    assert tabulate(Recipe(), columns=48).splitlines() == [
        "general: A cake.",
        '  name   ""     title of the recipe',
        "  eggs   3      whole eggs [from 0 up]",
        "  flour  wheat  kind of flour",
        "                [one of wheat, rye]",
        "",
        "oven: How hot it gets.",
        "  oven.degrees  180    temperature in degrees",
        "                       Celsius [from 20 to 250]",
        "  oven.fan      false  hot air [true or false]",
    ]
