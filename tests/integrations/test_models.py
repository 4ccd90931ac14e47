"""Models of every library that Verta names: logged, given back, and served from another process."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from verta_local import Client

Predict = Callable[[Any, Any], Any]


def in_main(source: str, **values: object) -> dict[str, Any]:
    """Run source as a notebook's cell does: what it defines belongs to `__main__` and goes by value."""
    scope: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__, **values}
    exec(compile(source, "<cell 1>", "exec"), scope)
    return scope


# scikit-learn, XGBoost, LightGBM


def test_a_scikit_learn_pipeline_with_a_function_of_the_notebook(client: Client, predict_elsewhere: Predict) -> None:
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    double = in_main("import numpy\ndef double(rows): return numpy.asarray(rows) * FACTOR\nFACTOR = 2.0")["double"]
    model = make_pipeline(FunctionTransformer(double), LinearRegression()).fit([[0.0], [1.0]], [0.0, 4.0])
    run = client.set_experiment_run()
    run.log_model(model)
    assert predict_elsewhere(run, [[3]]) == pytest.approx([12.0])
    assert run.get_model().predict([[1.0]]) == pytest.approx(4.0)


def test_an_xgboost_classifier_and_a_booster(client: Client, predict_elsewhere: Predict) -> None:
    pytest.importorskip("sklearn")
    xgboost = pytest.importorskip("xgboost")
    import numpy as np

    rows = np.random.default_rng(0).random((60, 3))
    labels = (rows[:, 0] > 0.5).astype(int)
    run = client.set_experiment_run()
    run.log_model(xgboost.XGBClassifier(n_estimators=4).fit(rows, labels))
    assert predict_elsewhere(run, [[0.9, 0.5, 0.5], [0.1, 0.5, 0.5]]) == [1, 0]
    matrix = xgboost.DMatrix(rows, labels, feature_names=["a", "b", "c"])
    booster = xgboost.train({"objective": "binary:logistic"}, matrix, 4)
    run.log_model(booster, overwrite=True)
    high, low = predict_elsewhere(run, [[0.9, 0.5, 0.5], [0.1, 0.5, 0.5]])
    assert high > 0.5 > low
    assert run.get_model().predict(matrix) == pytest.approx(booster.predict(matrix))


def test_a_lightgbm_classifier(client: Client, predict_elsewhere: Predict) -> None:
    pytest.importorskip("sklearn")
    lightgbm = pytest.importorskip("lightgbm")
    import numpy as np

    rows = np.random.default_rng(0).random((60, 3))
    model = lightgbm.LGBMClassifier(n_estimators=4, verbose=-1).fit(rows, (rows[:, 0] > 0.5).astype(int))
    run = client.set_experiment_run()
    run.log_model(model)
    assert predict_elsewhere(run, [[0.9, 0.5, 0.5], [0.1, 0.5, 0.5]]) == [1, 0]


# Keras and TensorFlow


@pytest.fixture
def keras() -> Any:
    pytest.importorskip("tensorflow")
    return pytest.importorskip("keras")


def test_a_trained_keras_model_comes_back_ready_to_train_on(
    keras: Any, client: Client, predict_elsewhere: Predict
) -> None:
    import numpy as np

    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, name="only")])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.0], [1.0]]), epochs=3, verbose=0)
    run = client.set_experiment_run()
    run.log_model(model)
    expected = model.predict(np.array([[1.0, 2.0]]), verbose=0).tolist()
    assert predict_elsewhere(run, [[1, 2]])[0] == pytest.approx(expected[0], rel=1e-5)
    again = run.get_model()
    assert again.optimizer.iterations == model.optimizer.iterations
    again.fit(np.array([[0.0, 1.0]]), np.array([[0.0]]), verbose=0)


def test_a_keras_model_with_layers_and_functions_of_the_notebook(
    keras: Any, client: Client, predict_elsewhere: Predict
) -> None:
    """Another process does not know them: Keras's own archive holds their names alone."""
    scope = in_main(
        "import keras\n"
        "class Twice(keras.layers.Layer):\n    def call(self, x): return x * FACTOR\nFACTOR = 2.0\n"
        "def plus_one(x): return x + 1.0\n"
        "def my_loss(truth, found): return keras.ops.mean(keras.ops.abs(truth - found))\n"
    )
    model = keras.Sequential(
        [keras.layers.Input((2,)), scope["Twice"](), keras.layers.Activation(scope["plus_one"]),
         keras.layers.Lambda(lambda x: x * 10.0)]
    )  # fmt: skip
    model.compile("sgd", scope["my_loss"], metrics=[scope["my_loss"]])
    run = client.set_experiment_run()
    run.log_model(model)
    assert predict_elsewhere(run, [[1, 2]]) == [[30.0, 50.0]]


def test_a_keras_model_with_several_inputs_takes_a_list_or_a_dict(
    keras: Any, client: Client, predict_elsewhere: Predict
) -> None:
    left, right = keras.Input((1,), name="left"), keras.Input((1,), name="right")
    model = keras.Model([left, right], keras.layers.Subtract()([left, right]))
    run = client.set_experiment_run()
    run.log_model(model)
    assert predict_elsewhere(run, [[[5.0]], [[2.0]]]) == [[3.0]]
    assert predict_elsewhere(run, {"left": [[5]], "right": [[2]]}) == [[3.0]]


def test_keras_model_files_of_both_formats(
    keras: Any, client: Client, predict_elsewhere: Predict, tmp_path: Path
) -> None:
    """HDF5 too, whose loss Keras does not always read back: it predicts all the same."""
    import numpy as np

    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile("sgd", "mse")
    run = client.set_experiment_run()
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        run.log_model(str(tmp_path / name), overwrite=True)
        assert predict_elsewhere(run, [[1, 2]]) == [[3.0]]
        with pytest.warns(UserWarning, match="without its loss") if name.endswith("h5") else nothing():
            assert run.get_model().predict(np.ones((1, 2)), verbose=0).tolist() == [[2.0]]


def nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


def test_a_keras_model_without_weights_is_refused_with_what_to_do(keras: Any, client: Client) -> None:
    model = keras.Sequential([keras.layers.Dense(1)])
    with pytest.raises(TypeError, match=r"no weights yet: call it, build\(\) or fit\(\) it first"):
        client.set_experiment_run().log_model(model)


def test_a_tensorflow_module_of_the_notebook_and_its_saved_model(
    client: Client, predict_elsewhere: Predict, tmp_path: Path
) -> None:
    """As an object, and as the folder that it was saved to."""
    tensorflow = pytest.importorskip("tensorflow")
    scope = in_main(
        "import tensorflow as tf\n"
        "class Scale(tf.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.factor = tf.Variable(2.0)\n"
        "    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])\n"
        "    def __call__(self, x):\n"
        "        return self.factor * x\n"
    )
    module = scope["Scale"]()
    run = client.set_experiment_run()
    run.log_model(module)
    assert predict_elsewhere(run, [1, 2.5]) == [2.0, 5.0]
    assert run.get_model()(tensorflow.constant([3.0])).numpy().tolist() == [6.0]
    tensorflow.saved_model.save(module, str(tmp_path / "scale"))
    run.log_model(str(tmp_path / "scale"), overwrite=True)
    assert predict_elsewhere(run, [4]) == [8.0]


def test_an_exported_keras_model_is_served_by_its_signature(
    keras: Any, client: Client, predict_elsewhere: Predict, tmp_path: Path
) -> None:
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.export(str(tmp_path / "exported"), verbose=False)
    run = client.set_experiment_run()
    run.log_model(tmp_path / "exported")
    (answer,) = predict_elsewhere(run, [[1, 2]]).values()
    assert answer == [[3.0]]


# PyTorch


def test_a_torch_module_of_the_notebook_goes_by_value(client: Client, predict_elsewhere: Predict) -> None:
    """In evaluation mode when it is served; whole numbers become what its weights are."""
    pytest.importorskip("torch")
    scope = in_main(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(2, 1, bias=False)\n"
        "        torch.nn.init.constant_(self.layer.weight, SCALE)\n"
        "        self.drop = torch.nn.Dropout(0.9)\n"
        "    def forward(self, x):\n"
        "        return self.drop(self.layer(x))\n"
        "SCALE = 3.0\n"
    )
    net = scope["Net"]()
    run = client.set_experiment_run()
    run.log_model(net)
    assert predict_elsewhere(run, [[1, 2]]) == [[9.0]]
    assert net.training and run.get_model().state_dict().keys() == net.state_dict().keys()


def test_a_torch_module_that_looks_up_embeddings_gets_indices(client: Client, predict_elsewhere: Predict) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Embedding(4, 3), torch.nn.Linear(3, 1))
    run = client.set_experiment_run()
    run.log_model(model)
    expected = model(torch.tensor([1, 3])).tolist()
    first, second = predict_elsewhere(run, [1, 3])
    assert [*first, *second] == pytest.approx([*expected[0], *expected[1]])


def test_torchscript_and_torch_files(client: Client, predict_elsewhere: Predict, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import warnings

    layer = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions advise against TorchScript
        scripted = torch.jit.script(layer)
        scripted.save(str(tmp_path / "model.pt"))
        torch.save(layer, tmp_path / "layer.pt")
        torch.save(layer.state_dict(), tmp_path / "weights.pt")
        run = client.set_experiment_run()
        run.log_model(scripted)
        assert predict_elsewhere(run, [[1, 2]]) == [[3.0]]
        for name in ("model.pt", "layer.pt"):
            run.log_model(tmp_path / name, overwrite=True)
            assert predict_elsewhere(run, [[1, 2]]) == [[3.0]]
        run.log_model(tmp_path / "weights.pt", overwrite=True)
    assert run.get_model()["weight"].tolist() == [[1.0, 1.0]]


# Anything else


def test_any_object_file_and_folder_comes_back(client: Client, tmp_path: Path) -> None:
    """As in Verta's last versions; a folder as a zip."""
    run = client.set_experiment_run()
    run.log_model({"weights": [1, 2]})
    assert run.get_model() == {"weights": [1, 2]}
    (tmp_path / "vectors.bin").write_bytes(b"\x00\x01data")
    run.log_model(str(tmp_path / "vectors.bin"), overwrite=True)
    assert run.get_model().read() == b"\x00\x01data"
    run.log_model(io.BytesIO(b"from a stream"), overwrite=True)
    assert run.get_model().read() == b"from a stream"
    (tmp_path / "folder" / "empty").mkdir(parents=True)
    (tmp_path / "folder" / "a.txt").write_text("a")
    run.log_model(tmp_path / "folder", overwrite=True)
    assert set(zipfile.ZipFile(run.get_model()).namelist()) == {"a.txt", "empty/"}


def test_a_pandas_table_in_a_model_api() -> None:
    pandas = pytest.importorskip("pandas")
    from verta_local.utils import ModelAPI

    frame = pandas.DataFrame({"age": [1, 2], "name": ["a", "b"]})
    api = ModelAPI(frame, frame["age"]).to_dict()
    assert [member["name"] for member in api["input"]["value"]] == ["age", "name"]
    assert api["output"] == {"type": "VertaFloat", "name": "age"}
