import re

from catdog.report.parallel_coordinates import parallel_coordinates


def test_each_row_is_a_line_and_the_best_is_drawn_last() -> None:
    columns = [("dropout", [0.1, 0.2, 0.3]), ("<pooling>", ["max", "avg", "max"])]
    chart = parallel_coordinates(columns, tips=["a", "b", "c"], ranks=[0.0, 0.5, 1.0], names=["0", "1", "2"], marked=1)
    assert re.findall(r'data-tip="(\w)"', chart) == ["c", "b", "a"]
    assert re.findall(r'class="line (r\d[^"]*)"', chart) == ["r4", "r2 marked", "r0"]
    assert "&lt;pooling&gt;" in chart
    assert "<pooling>" not in chart
