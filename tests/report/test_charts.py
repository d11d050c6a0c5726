import re

from catdog.report import charts


def test_curves_show_every_epoch_of_both_stages_and_skip_what_is_no_number() -> None:
    row = {"loss": 0.5, "acc": 0.75, "val_loss": 0.4, "val_acc": 0.8125}
    histories = {
        "frozen": [{"epoch": 1, **row}, {"epoch": 2, **row, "loss": float("nan")}],
        "unfrozen": [{"epoch": 1, **row}],
    }
    chart = charts.curve(histories, "acc", title="Accuracy")
    assert re.findall(r'data-tip="([^"]+)"', chart) == [
        "frozen, epoch 1\ntraining 0.7500\nvalidation 0.8125",
        "frozen, epoch 2\ntraining 0.7500\nvalidation 0.8125",
        "unfrozen, epoch 1\ntraining 0.7500\nvalidation 0.8125",
    ]
    assert charts.curve(histories, "loss", title="Loss").count('class="dot s1"') == 2
    assert "nan" not in re.sub(r'data-tip="[^"]+"', "", charts.curve(histories, "loss", title="Loss"))


def test_counts_far_apart_are_drawn_on_a_logarithmic_axis() -> None:
    assert "logarithmic" in charts.histogram([1, 0, 1000], low=0, high=1, title="x", x_label="x")
    assert "logarithmic" not in charts.histogram([1, 0, 10], low=0, high=1, title="x", x_label="x")
    assert "NaN" not in charts.histogram([0, 0], low=0, high=1, title="x", x_label="x")


def test_no_tick_is_above_the_greatest_value_that_there_can_be() -> None:
    points = [charts.Point(x=10.0 * place, y=1.0, tip="") for place in range(3)]
    texts = re.findall(
        r"<text[^>]*>([^<]+)</text>", charts.scatter(points, title="", x_label="", y_label="", greatest=1.0)
    )
    assert "1" in texts
    assert not [text for text in texts if re.fullmatch(r"1\.\d+", text)]
    row = {"epoch": 1, "acc": 1.0, "val_acc": 1.0}
    assert "1.00" not in re.sub(r'data-tip="[^"]+"', "", charts.curve({"frozen": [row]}, "acc", title="Accuracy"))


def test_time_is_never_on_a_logarithmic_axis() -> None:
    points = [charts.Point(x=x, y=x, tip="") for x in (0.1, 1.0, 100.0)]
    steps = [(point.x, point.y) for point in points]
    assert ">20<" not in charts.scatter(points, title="", x_label="", y_label="")
    assert ">20<" in charts.scatter(points, title="", x_label="", y_label="", steps=steps)


def test_counts_have_whole_numbers_on_their_axis() -> None:
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", charts.histogram([1, 0, 1], low=10, high=40, title="", x_label=""))
    assert {"0", "1"} <= set(texts)
    assert not [text for text in texts if text.startswith("0.")]
