import numpy as np

from catdog.evaluation.metrics import evaluate
from catdog.evaluation.paired import compare_models
from catdog.report.evaluation_tables import comparison_sentence, score_sentence, score_tables


def test_the_matrix_marks_what_is_right_and_escapes_class_names() -> None:
    true = np.array([0, 0, 0, 1])
    told = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9]])
    found = evaluate(true, told, classes=("<cat>", "dog")).to_json()
    tables = score_tables(found)
    assert "<cat>" not in tables
    assert "true &lt;cat&gt;, predicted dog\n1 photo, 33.3% of its class" in tables
    assert tables.count('class="right level') == 2
    assert tables.count('class="wrong level') == 1
    assert score_sentence(found).startswith(
        "3 of 4 photos are correct: accuracy 0.7500 (95 % interval 0.3006 to 0.9544)"
    )
    assert "balanced accuracy 0.8333, log loss" in score_sentence(found)


def test_of_many_classes_the_most_frequent_confusions_are_listed() -> None:
    names = [f"class {index:03d}" for index in range(200)]
    true = np.repeat(np.arange(200), 2)
    told = np.eye(200)[(true + (true == 7) * 5) % 200]
    tables = score_tables(evaluate(true, told, classes=names).to_json())
    assert len(tables) < 60_000
    unseen = score_tables(evaluate(true[:20], told[:20], classes=names).to_json())
    assert "class 012" in unseen  # predicted, although no photo has this class
    assert "class 150" not in unseen
    assert '<th scope="row" class="text">class 007</th><td class="text">class 012</td><td>2</td>' in tables


def test_two_models_are_compared_in_words() -> None:
    true = np.zeros(20, int)
    first, second = np.tile([0.9, 0.1], (20, 1)), np.tile([0.9, 0.1], (20, 1))
    second[:12] = [0.1, 0.9]
    sentence = comparison_sentence(
        compare_models(first, second, true=true).to_json(), first="A", second="B", where="cats"
    )
    assert sentence == (
        "On the 20 cats both predict the same 8 times (40.0%). Only A is correct on 12, only B on 0: a difference "
        "unlikely to be chance (McNemar's exact test, p = 0.000488)."
    )
    same = comparison_sentence(compare_models(first, first, true=true).to_json(), first="A", second="B")
    assert same == "On the 20 photos both predict the same 20 times (100.0%). They are correct on the same photos."
    unknown = comparison_sentence(compare_models(first, second).to_json(), first="A", second="B")
    assert unknown == "On the 20 photos both predict the same 8 times (40.0%)."
