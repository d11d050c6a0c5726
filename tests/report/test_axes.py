import pytest

from catdog.report.axes import Axis, names_axis


def test_ticks_are_round() -> None:
    axis = Axis(low=0.497, high=1.005, start=0, end=100)
    assert axis.ticks() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    wide = Axis(low=0.9e-5, high=0.02, start=0, end=100, log=True)
    assert wide.ticks() == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])
    assert Axis(low=0.0021, high=0.0049, start=0, end=1, log=True).ticks() == pytest.approx([0.003])
    assert Axis(low=1, high=1, start=0, end=100).ticks() == [1]
    assert (axis.place(0.497), axis.place(1.005)) == (0, 100)


def test_texts_and_truth_values_have_an_axis_of_names() -> None:
    assert names_axis([True, False, True], top=0, bottom=100)[1] == ["False", "True"]
    assert names_axis(["b", "a"], top=0, bottom=100)[1] == ["a", "b"]
    axis, names = names_axis([1, 2.5], top=0, bottom=100)
    assert (names, axis.start, axis.end) == ([], 100, 0)
