# %% [markdown]
# # Keras with the callback
#
# `VertaCallback(run)` logs the optimizer, the loss, the layers and every epoch; the model is logged as it is, and
# served. One line is not as it was in a Verta notebook: the import. Data: scikit-learn's handwritten digits, which ship
# with it.
#
# `pip install "verta_local[tensorflow,sklearn]"`

# %%
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow greets with a screen of log lines otherwise
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # the same rounding on every processor

import keras
import numpy as np
from sklearn.datasets import load_digits

from verta_local import Client
from verta_local.environment import Python
from verta_local.integrations.keras import VertaCallback
from verta_local.utils import ModelAPI

# %%
client = Client()
proj = client.set_project("Digits")
expt = client.set_experiment("Fully connected")
run = client.set_experiment_run("first")

# %% [markdown]
# ## Data

# %%
images, labels = load_digits(return_X_y=True)
images = images.astype("float32") / 16
X_train, y_train = images[:1400], labels[:1400]
X_test, y_test = images[1400:], labels[1400:]
X_train.shape, X_test.shape

# %% [markdown]
# ## Define, compile, train

# %%
hyperparams = {
    "num_units": 64,
    "dropout_rate": 0.2,
    "learning_rate": 0.005,
    "batch_size": 32,
    "num_epochs": 12,
}
run.log_hyperparameters(hyperparams)

# %%
keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.layers.Input((64,)),
        keras.layers.Dense(hyperparams["num_units"], activation="relu", name="hidden"),
        keras.layers.Dropout(hyperparams["dropout_rate"], name="dropout"),
        keras.layers.Dense(10, activation="softmax", name="digits"),
    ]
)
model.compile(
    optimizer=keras.optimizers.Adam(hyperparams["learning_rate"]),
    loss="sparse_categorical_crossentropy",
    metrics=["accuracy"],
)
history = model.fit(
    X_train,
    y_train,
    batch_size=hyperparams["batch_size"],
    epochs=hyperparams["num_epochs"],
    validation_split=0.2,
    verbose=0,
    callbacks=[VertaCallback(run)],
)

# %%
train_loss, train_acc = model.evaluate(X_train, y_train, verbose=0)
test_loss, test_acc = model.evaluate(X_test, y_test, verbose=0)
run.log_metrics({"train_acc": train_acc, "test_acc": test_acc})
print(f"accuracy: {train_acc:.1%} in training, {test_acc:.1%} on new digits")

# %% [markdown]
# ## What was logged
#
# A run at the end of a cell shows itself, with a line for each series of observations.

# %%
run

# %%
[(round(value, 3), epoch) for value, _, epoch in run.get_observation("val_loss")][:4]

# %% [markdown]
# ## Deploy, and ask

# %%
run.log_model(model, model_api=ModelAPI(X_train, model.predict(X_train[:1], verbose=0)))
run.log_environment(
    Python(["keras", "tensorflow-cpu", "numpy"], env_vars=["TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS"])
)
run.deploy(wait=True)["status"]

# %%
deployed_model = run.get_deployed_model()
answers = np.array(deployed_model.predict(X_test)).argmax(axis=1)
print("served:", answers[:12].tolist())
print("truth: ", y_test[:12].tolist())
print(f"accuracy over HTTP: {(answers == y_test).mean():.1%} of {len(answers)}")

# %%
run.undeploy(wait=True)["status"]
