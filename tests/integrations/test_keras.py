"""The Keras callback, with real trainings."""

from __future__ import annotations

from typing import Any

import pytest

from verta_local import Client

pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
np = pytest.importorskip("numpy")

from verta_local.integrations.keras import VertaCallback  # noqa: E402


@pytest.fixture(scope="module")
def data() -> Any:
    rows = np.random.default_rng(0).random((32, 3)).astype("float32")
    return rows, (rows.sum(1) > 1.5).astype("float32")


def make_model() -> Any:
    model = keras.Sequential(
        [keras.layers.Input((3,)), keras.layers.Dense(4, activation="relu", name="first"), keras.layers.Dropout(0.25),
         keras.layers.Dense(1, activation="sigmoid", name="last")]
    )  # fmt: skip
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    return model


def test_a_training_is_logged_with_its_layers_and_epochs(client: Client, data: Any) -> None:
    """Verta's names."""
    run = client.set_experiment_run()
    history = make_model().fit(
        *data, epochs=3, batch_size=8, validation_split=0.25, verbose=0, callbacks=[VertaCallback(run)]
    )
    found = run.get_hyperparameters()
    assert {name: found[name] for name in ("optimizer", "loss", "epochs", "steps")} == {
        "optimizer": "Adam", "loss": "binary_crossentropy", "epochs": 3, "steps": 3,
    }  # fmt: skip
    assert {name: value for name, value in found.items() if name.startswith("layer_")} == {
        "layer_0_name": "first", "layer_0_size": 4, "layer_0_activation": "relu",
        "layer_1_name": found["layer_1_name"], "layer_1_dropoutrate": 0.25,
        "layer_2_name": "last", "layer_2_size": 1, "layer_2_activation": "sigmoid",
    }  # fmt: skip
    assert set(run.get_observations()) == set(history.history) == {"accuracy", "loss", "val_accuracy", "val_loss"}
    points = run.get_observation("loss")
    assert [epoch for _, _, epoch in points] == [0, 1, 2]
    assert [value for value, _, _ in points] == pytest.approx(history.history["loss"])


def test_a_second_training_of_the_same_run_goes_on(client: Client, data: Any) -> None:
    """Its settings are the run's then; names do not depend on how many optimizers there were before."""
    keras.optimizers.SGD()
    run = client.set_experiment_run()
    model = make_model()
    model.fit(*data, epochs=1, verbose=0, callbacks=[VertaCallback(run)])
    model.compile("sgd", keras.losses.MeanSquaredError())
    model.fit(*data, epochs=3, initial_epoch=1, verbose=0, callbacks=[VertaCallback(run)])
    assert (run.get_hyperparameter("optimizer"), run.get_hyperparameter("loss")) == ("SGD", "MeanSquaredError")
    assert [epoch for _, _, epoch in run.get_observation("loss")] == [0, 1, 2]


def test_what_is_no_run_is_refused_before_a_training() -> None:
    with pytest.raises(TypeError, match="must be an experiment run, not str"):
        VertaCallback("run")  # type: ignore[arg-type]


def test_a_store_that_cannot_be_written_does_not_end_the_training(
    client: Client, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once."""
    run = client.set_experiment_run()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    callback = VertaCallback(run)
    monkeypatch.setattr(run, "log_observation", fail)
    with pytest.warns(UserWarning, match=r"No space left on device\); the training goes on") as caught:
        make_model().fit(*data, epochs=2, verbose=0, callbacks=[callback])
    assert len([each for each in caught if "the training goes on" in str(each.message)]) == 1
