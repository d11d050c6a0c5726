import numpy as np
import pytest
from made_features import ViewRows, head_networks

from catdog.config import FrozenStageConfig
from catdog.model.backbone_specs import HEAD_CUT
from catdog.training.fit.checkpoint import StageState
from catdog.training.fit.head.frozen_head import fit_frozen_head
from catdog.training.fit.networks import Networks
from catdog.training.fit.train_loop import DivergedError, StageRows

WIDTH = 40


def make_rows(photos: int, *, seed: int, views: int = 2, rare: float = 0.5) -> ViewRows:
    """Return features of very different scales; the first 16 separate the classes, with some overlap."""
    random = np.random.default_rng(seed)
    labels = (random.random(photos) < rare).astype(np.int32)
    features = random.normal(size=(views, photos, WIDTH))
    features[..., :16] += 0.5 * labels[:, np.newaxis]
    scales = np.exp(np.random.default_rng(0).normal(0, 1.5, WIDTH))
    return ViewRows((features * scales + 3).astype(np.float32), labels)


@pytest.fixture(scope="module")
def networks() -> Networks:
    """Return a classifier with a single convolution, because these tests are about its head."""
    return head_networks(WIDTH)


class Follower:
    def __init__(self, state: StageState | None = None) -> None:
        self._state, self.kept = state, list[bytes]()

    def resume(self) -> StageState | None:
        return self._state

    def on_step(self, epoch: int, step: int, steps: int) -> None: ...

    def on_epoch(self, state: StageState, *, checkpoint: bool) -> None:
        self.kept.append(state.to_bytes())

    def on_end(self) -> None: ...


def fit(networks: Networks, train: ViewRows, *, follower: Follower | None = None, **options: object) -> StageState:
    settings = FrozenStageConfig(epochs=6, global_batch_size=64)
    rows = StageRows(train=train, validation=make_rows(400, seed=1))  # type: ignore[arg-type]
    return fit_frozen_head(networks.head(HEAD_CUT), settings, rows, follower or Follower(), **options)  # type: ignore[arg-type]


def test_a_head_is_solved_in_one_epoch_and_given_to_the_classifier(networks: Networks) -> None:
    follower = Follower()
    state = fit(networks, make_rows(300, seed=0), follower=follower)
    assert (state.epoch, state.best_epoch, len(state.history), len(follower.kept)) == (1, 1, 1, 1)
    assert state.history[0]["val_acc"] > 0.8
    assert 0.001 <= state.note["c"] <= 1.0
    kernel, bias = networks.trained.get_layer("fc_out").get_weights()
    np.testing.assert_array_equal(kernel, state.best_weights[0])
    np.testing.assert_array_equal(bias, state.best_weights[1])


def test_a_solved_head_is_not_solved_again(networks: Networks) -> None:
    train = make_rows(300, seed=0)
    state = fit(networks, train)
    networks.trained.get_layer("fc_out").set_weights([np.zeros((WIDTH, 2)), np.zeros(2)])
    follower = Follower(StageState.from_bytes(state.to_bytes()))
    again = fit(networks, train, follower=follower)
    assert not follower.kept
    assert again.note == state.note
    np.testing.assert_array_equal(networks.trained.get_layer("fc_out").get_weights()[0], state.best_weights[0])


def test_mini_batches_reach_the_loss_of_the_exact_head(networks: Networks) -> None:
    train = make_rows(2000, seed=0)
    exact = fit(networks, train)
    batches = fit(networks, train, exact_bytes=4 * WIDTH * 1000)  # a quarter of the rows
    assert batches.epoch == 6
    assert batches.history[-1]["val_loss"] == pytest.approx(exact.history[-1]["val_loss"], rel=0.02)
    assert batches.history[-1]["val_loss"] < batches.history[0]["val_loss"]


def test_mini_batches_resume_exactly(networks: Networks) -> None:
    train, whole = make_rows(600, seed=0), Follower()
    state = fit(networks, train, follower=whole, exact_bytes=4 * WIDTH * 300)
    resumed = fit(networks, train, follower=Follower(StageState.from_bytes(whole.kept[2])), exact_bytes=4 * WIDTH * 300)
    assert resumed.epoch == state.epoch == 6
    np.testing.assert_array_equal(resumed.best_weights[0], state.best_weights[0])


def test_class_weights_lift_a_rare_class(networks: Networks) -> None:
    train = make_rows(400, seed=0, rare=0.1)
    recalls = []
    for class_weights in ((), (400 / 2 / (train._labels == 0).sum(), 400 / 2 / (train._labels == 1).sum())):
        fit(networks, train, class_weights=class_weights)
        kernel, bias = networks.trained.get_layer("fc_out").get_weights()
        made = make_rows(1000, seed=5)
        right = (made._features[0] @ kernel + bias).argmax(axis=1) == made._labels
        recalls.append(right[made._labels == 1].mean())
    assert recalls[1] > recalls[0] + 0.1


def test_mini_batches_shift_the_biases_of_uneven_classes_as_the_exact_head_does(networks: Networks) -> None:
    train = make_rows(2000, seed=0, rare=0.1)
    weights = tuple(2000 / 2 / (train._labels == label).sum() for label in (0, 1))
    exact = fit(networks, train, class_weights=weights)
    batches = fit(networks, train, class_weights=weights, exact_bytes=4 * WIDTH * 1000)
    assert exact.note["shift"][1] > 0.0 > exact.note["shift"][0]
    assert batches.note["shift"][1] > 0.0 > batches.note["shift"][0]
    assert batches.history[-1]["val_loss"] == pytest.approx(exact.history[-1]["val_loss"], rel=0.05)


def test_features_that_are_not_numbers_end_the_stage(networks: Networks) -> None:
    train = make_rows(100, seed=0)
    train._features[0, 5] = np.nan
    with pytest.raises(DivergedError, match=r"^the frozen stage has NaN or infinite features"):
        fit(networks, train)
