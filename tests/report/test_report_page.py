"""The pages as a user sees them: opened from a file in a real, headless Chromium."""

from __future__ import annotations

import csv
import io
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from heard import heard
from made_results import commit_rows
from PIL import Image

from catdog.config import TrainConfig
from catdog.evaluation.metrics import evaluate, reliability_bins
from catdog.evaluation.paired import compare_models
from catdog.evaluation.sums import bin_sums
from catdog.photos.annotations.corrections import read_corrections
from catdog.prediction.page.report import build_predict_page
from catdog.prediction.results.rows import LabelRule, build_rows
from catdog.report.page import write_page
from catdog.storage import files
from catdog.training.page.report import build_train_page
from catdog.tuning.report.page import build_tune_page
from catdog.tuning.space import parse_space

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
)
# Markup, quotes, a formula, a line end, and the character U+202E, which reverses the writing direction.
EVIL = '/photos/<img src=x onerror="document.title=1">\'",=1+1\n</script>\u202egpj.jpg'
CLASSES = ("cat", "<b>dog</b>", "=cow()")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Yield one Chromium for all tests; it downloads files without asking."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        folder = tmp_path_factory.mktemp("downloads")
        options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for flag in FLAGS.split():
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.downloads = folder
    yield driver
    driver.quit()


def open_page(browser: Any, path: Path, *, width: int = 1200) -> list[Any]:
    """Open a page and return the browser's console messages."""
    browser.set_window_size(width, 900)
    browser.get_log("browser")
    browser.get(path.as_uri())
    wait_for(lambda: browser.execute_script("return document.readyState") == "complete")
    return list(browser.get_log("browser"))


def open_again(browser: Any) -> None:
    """Reload the page and wait for it: `refresh` alone may return while the old page is still shown."""
    browser.execute_script("window.isOld = true")
    browser.refresh()
    wait_for(lambda: browser.execute_script("return !window.isOld && document.readyState === 'complete'"))


def wait_for(condition: Callable[[], bool], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def find(browser: Any, selector: str) -> list[Any]:
    return [element for element in browser.find_elements("css selector", selector) if element.is_displayed()]


def texts(browser: Any, selector: str) -> list[str]:
    return [element.text for element in find(browser, selector)]


def press(browser: Any, selector: str) -> None:
    """Click the first visible match of `selector`, clear of the bar that floats at the bottom of the window."""
    element = find(browser, selector)[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def choose(browser: Any, name: str, text: str) -> None:
    (option,) = (one for one in browser.find_elements("css selector", f"#{name} option") if one.text.startswith(text))
    option.click()


def jpeg() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (160, 120), (200, 120, 60)).save(sink, "JPEG")
    return sink.getvalue()


def write(folder: Path, build: Callable[[], str]) -> Path:
    said: list[str] = []
    heard(said, write_page, str(folder), build)
    assert said == [f"Report: {folder}/report.html"]
    return folder / "report.html"


@pytest.fixture(scope="module")
def labels_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of 70 photos of two classes, one with a hostile name, and two unreadable files."""
    out = tmp_path_factory.mktemp("labels")
    rule = LabelRule(classes=CLASSES, threshold=0.6, top_k=1, models=1)
    paths = [EVIL, *(f"/photos/{index:03d}.jpg" for index in range(71))]
    errors = ["", *("truncated: <i>short</i>" if index in (5, 6) else "" for index in range(71))]
    cat = np.linspace(0.02, 0.98, 70, dtype=np.float32)
    told = np.stack([cat, 1 - cat, 0 * cat], axis=1)
    rows = build_rows(paths, errors, [told], rule)
    commit_rows(str(out), rows, format="csv")
    true = np.where(np.arange(72) % 2, 0, 1).astype(np.int32)
    known = np.tile([0, 1], 35)
    found = evaluate(known, told, classes=CLASSES, threshold=0.6)
    (out / "evaluation.json").write_text(json.dumps({"models": [{"path": "m", **found.to_json()}]}))
    summary = {
        "seconds": 3.0, "photos_per_second": 24.0, "engine": "openvino", "precision": "bfloat16",
        "versions": {"catdog": "1"},
        "models": [{"path": "/m", "fingerprint": out.name}],
    }  # fmt: skip
    return write(
        out,
        lambda: build_predict_page(
            str(out),
            rule=rule,
            summary=summary,
            photos="/photos",
            thumbnails=lambda names: dict.fromkeys(names[1:], jpeg()),
            true=[true],
        ),
    )


def test_the_page_of_labels_opens_filters_and_searches(browser: Any, labels_page: Path) -> None:
    assert open_page(browser, labels_page) == []
    assert len(find(browser, "#photos .card")) == 24
    assert texts(browser, "#place") == ["1 to 24 of 70 shown photos"]
    choose(browser, "label", "cat")
    assert {text.split()[0] for text in texts(browser, "#photos .said")} == {"cat"}
    choose(browser, "label", "unsure")
    assert {text.split()[0] for text in texts(browser, "#photos .said")} == {"unsure"}
    choose(browser, "label", "all labels")
    choose(browser, "order", "most confident first")
    shown = [float(text.split()[-1]) for text in texts(browser, "#photos .said")]
    assert shown == sorted(shown, reverse=True)
    find(browser, "#next")[0].click()
    assert texts(browser, "#place") == ["25 to 48 of 70 shown photos"]
    choose(browser, "kind", "wrong")
    assert all("in folder" in text for text in texts(browser, "#photos .card"))
    find(browser, "#search")[0].send_keys("03")
    assert len(find(browser, "#found .card")) == 11
    assert texts(browser, "#count") == ["11 names"]
    assert "truncated" in browser.find_element("id", "errors").text
    assert browser.get_log("browser") == []


def test_a_name_with_markup_stays_text(browser: Any, labels_page: Path) -> None:
    open_page(browser, labels_page)
    find(browser, "#search")[0].send_keys("onerror")
    name = browser.find_element("css selector", "#found .name")
    assert name.get_property("textContent") == EVIL.removeprefix("/photos/")
    assert name.find_elements("css selector", "*") == []
    assert (browser.title, find(browser, "[src='x']"), find(browser, "main b, main i")) == ("Labels", [], [])
    assert "is <b>dog</b>" in texts(browser, "#photos button")
    assert "<i>short</i>" in texts(browser, "#errors table")[0]


def test_corrections_are_marked_kept_and_downloaded(browser: Any, labels_page: Path) -> None:
    open_page(browser, labels_page)
    assert find(browser, "#basket") == []
    find(browser, "#search")[0].send_keys("onerror")
    press(browser, "#found button")
    choose(browser, "label", "cat")
    choose(browser, "order", "by name")
    assert texts(browser, "#photos .card:first-child button") == ["is <b>dog</b>", "is =cow()", "leave out"]
    press(browser, "#photos .card:nth-child(1) button:nth-child(1)")
    press(browser, "#photos .card:nth-child(2) button:nth-child(3)")
    press(browser, "#photos .card:nth-child(3) button:nth-child(2)")
    press(browser, "#photos .card:nth-child(4) button:nth-child(1)")
    press(browser, "#photos .card:nth-child(4) button:nth-child(1)")  # undone
    assert texts(browser, "#marked") == ["4 corrections"]

    def are_kept() -> bool:
        open_again(browser)
        return texts(browser, "#marked") == ["4 corrections"]

    # Chromium writes localStorage with a delay, so a page that is reloaded immediately may not see the corrections yet.
    wait_for(are_kept)
    find(browser, "#download")[0].click()
    file = browser.downloads / "corrections.csv"
    wait_for(file.exists)
    paths = [path for path in predicted(labels_page) if path != EVIL][:3]
    wanted = {EVIL: "cat", paths[0]: "<b>dog</b>", paths[1]: None, paths[2]: "=cow()"}
    assert read_corrections(str(file)).classes == wanted
    assert file.read_bytes().endswith(b',"\'=cow()"\r\n')
    choose(browser, "kind", "corrected")
    assert len(find(browser, "#photos .card.marked")) == 4
    find(browser, "#clear")[0].click()
    browser.switch_to.alert.accept()
    assert (find(browser, "#basket"), find(browser, ".card.marked")) == ([], [])
    assert browser.get_log("browser") == []


def predicted(page: Path) -> list[str]:
    """Return the paths of the photos labelled cat, in order."""
    with (page.parent / "predictions/predictions-00000.csv").open(newline="") as lines:
        return [row["path"] for row in csv.DictReader(lines) if row["label"] == "cat"]


def train_run(folder: Path, *, diagnosed: bool) -> Path:
    """Write a run directory as a train job leaves it and return its page; older jobs left no diagnosis."""
    scores = {"accuracy": 0.9, "loss": 0.25}
    stage = {"epochs": 2, "best_epoch": 2, "seconds": 3.0, "validation": scores, "test": scores}
    classes = list(CLASSES[:2])
    counts: dict[str, Any] = {split: dict.fromkeys(classes, 10) for split in ("train", "validation", "test", "unused")}
    report = {
        "classes": classes, "counts": {**counts, "rejected": 1}, "stages": {"frozen": stage, "unfrozen": stage},
        "model": "unfrozen", "seconds": {"total": 9.5, "ingest": 4.5, "train": 5.0}, "versions": {"catdog": "1"},
    }  # fmt: skip
    files.write_json(str(folder / "report.json"), report)
    if diagnosed:
        true = np.repeat([0, 1], 10)
        right = np.tile([0.9, 0.8, 0.95, 0.3, 0.99], 4)
        told = np.where(true[:, None] == [0, 1], right[:, None], 1 - right[:, None])
        found = evaluate(true, told, classes=classes).to_json()
        bins = reliability_bins(bin_sums(told.max(axis=1), told.argmax(axis=1) == true))
        photo = {"path": EVIL, "split": "test", "true": classes[1], "label": "cat", "probability": 0.99999}
        pair = {"first": EVIL, "first_split": "train", "second": "/b.jpg", "second_split": "test", "distance": 2}
        diagnosis = {
            "evaluations": {"unfrozen": {"test": found, "validation": found}},
            "comparison": {"test": compare_models(told, told[::-1], true=true).to_json()},
            "calibration": {"split": "test", "temperature": 1.0, "before": {"error": 0.1, "bins": bins}, "after": None},
            "worst": [photo], "least_sure": [photo] * 15, "label_errors": [], "near_duplicates": [pair],
        }  # fmt: skip
        files.write_json(str(folder / "diagnosis.json"), diagnosis)
        pictures = [{"name": EVIL, "kind": kind, "jpeg": jpeg()} for kind in ("photo", "heat")]
        pq.write_table(pa.Table.from_pylist(pictures), folder / "thumbnails.parquet")
    row = {"loss": 0.5, "acc": 0.75, "val_loss": 0.4, "val_acc": 0.8125}
    history = [{"epoch": epoch, **row} for epoch in (1, 2)] if diagnosed else []
    return write(folder, lambda: build_train_page(str(folder), histories={"frozen": history, "unfrozen": history}))


def test_the_page_of_a_training_shows_values_to_pointer_and_keyboard(browser: Any, tmp_path: Path) -> None:
    assert open_page(browser, train_run(tmp_path, diagnosed=True)) == []
    assert len(find(browser, "h2")) == 11
    from selenium.webdriver import ActionChains, Keys

    (chart,) = find(browser, "svg[aria-label='Accuracy']")
    ActionChains(browser).move_to_element(chart.find_elements("css selector", ".hit")[2]).perform()
    wait_for(lambda: texts(browser, "#tip") == ["unfrozen, epoch 1\ntraining 0.7500\nvalidation 0.8125"])
    ActionChains(browser).move_to_element(find(browser, "h1")[0]).perform()
    wait_for(lambda: texts(browser, "#tip") == [])
    browser.execute_script("arguments[0].focus()", chart)
    chart.send_keys(Keys.ARROW_LEFT)
    wait_for(lambda: texts(browser, "#tip") == ["unfrozen, epoch 2\ntraining 0.7500\nvalidation 0.8125"])
    chart.send_keys(Keys.ESCAPE)
    wait_for(lambda: texts(browser, "#tip") == [])
    pictures = find(browser, "#worst img")
    browser.execute_script("arguments[0].scrollIntoView()", pictures[0])  # images load when they come into view
    wait_for(lambda: [picture.get_property("naturalWidth") for picture in pictures] == [160, 160])
    assert find(browser, "[src='x']") == []
    assert "McNemar" in browser.find_element("id", "stages").text
    assert browser.get_log("browser") == []


def test_a_training_without_diagnosis_has_a_page_of_what_there_is(browser: Any, tmp_path: Path) -> None:
    assert open_page(browser, train_run(tmp_path, diagnosed=False), width=500) == []
    assert [text.split("\n")[0] for text in texts(browser, "h2")] == [
        "Summary", "Stages", "Photos and splits", "Time by step", "Settings and versions",
    ]  # fmt: skip
    wide = browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0


def test_the_page_of_a_sweep_sorts_trials_and_shows_a_setting_and_a_trial_s_curves(
    browser: Any, tmp_path: Path
) -> None:
    row = {"steps": 1, "seconds": 1.0, "learning_rate": 0.1, "loss": 0.4, "acc": 0.8, "val_loss": 0.5, "val_acc": 0.7}
    history = [{**row, "epoch": epoch} for epoch in (1, 2)]
    records: dict[int, dict[str, Any]] = {
        number: {
            "number": number, "status": "finished" if number % 3 else "stopped", "reached": "frozen", "epochs": 2,
            "seconds": 4.0 + number, "ended": 100.0 + 10 * number, "stages": {"frozen": {"history": history}},
            "values": {"frozen.learning_rate": 10.0 ** -(1 + number % 3), "pooling": ("max", "avg")[number % 2]},
            "validation": {"accuracy": 0.9 + number / 200, "loss": 10.0**-number}, "stage": "frozen",
        }
        for number in range(10)
    }  # fmt: skip
    records[10] = {"number": 10, "status": "failed", "reason": "<b>bad</b>", "seconds": 1.0, "ended": 300.0,
                   "values": {"frozen.learning_rate": 0.9, "pooling": "avg"}}  # fmt: skip
    gain = {"photos": 400, "winner_only": 9, "default_only": 1, "p_value": 0.02, "accuracy": 0.02, "loss": 0.1,
            "loss_error": 0.01, "within_noise": False}  # fmt: skip
    result = {
        "number": 8, "values": {"pooling": "max"}, "stage": "frozen", "metric": "val_loss", "seconds": 60.0,
        "validation": {"accuracy": 0.94, "loss": 0.1}, "test": {"accuracy": 0.91, "loss": 0.2}, "gain": gain,
        "default": {"validation": {"accuracy": 0.9, "loss": 1.0}, "test": {"accuracy": 0.9, "loss": 0.3}},
        "photos": 400, "importance": {"method": "fANOVA", "shares": {"pooling": 0.75, "frozen.learning_rate": 0.25}},
        "command": "python jobs/train.py --x '<b>'", "trials": {"finished": 6, "failed": 1},
    }  # fmt: skip
    space = parse_space(TrainConfig, {"frozen.learning_rate": "loguniform:1e-3,1e-1", "pooling": "choice:avg,max"})
    page = write(tmp_path, lambda: build_tune_page(records, space, result=result, run_dir="/runs/sweep"))
    assert open_page(browser, page) == []
    summary = browser.find_element("id", "best").text
    assert "The gain is larger than the noise." in summary
    assert "report the one on the test photos" in summary
    assert "75%" in browser.find_element("id", "settings").text
    assert len(find(browser, "#settings svg.chart")) == 2
    ticks = texts(browser, "#settings svg.chart text")
    assert {"0.001", "0.01", "0.1"} <= set(ticks)  # logarithmic, as it was sampled: powers of ten
    assert len(find(browser, "#settings .ring")) == 2  # trial 0, in both charts
    choose(browser, "setting", "pooling")
    assert find(browser, "#settings svg.chart")[0].get_attribute("aria-label") == "validation loss against pooling"
    assert texts(browser, "#curves h3") == ["Trial 8, finished"]
    find(browser, "#trials [data-trial='3']")[0].click()
    assert texts(browser, "#curves h3") == ["Trial 3, stopped after the frozen stage"]
    assert int(texts(browser, "#trials tbody th")[0]) == 8  # the winner comes first
    button = next(one for one in find(browser, "#trials thead button") if one.text == "loss")
    for order in ([9, 8, 7], [0, 1, 2]):
        button.click()
        found = [int(text.split()[0]) for text in texts(browser, "#trials tbody th")]
        assert found[:3] == order
        assert found[-1] == 10  # a trial without a score stays last
    assert find(browser, "main b") == []
    assert browser.get_log("browser") == []
