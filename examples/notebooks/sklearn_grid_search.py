# %% [markdown]
# # Grid search with scikit-learn
#
# The kind of notebook that Verta users wrote: a run for every set of hyperparameters, the best one found by a query,
# deployed, and asked. Two lines are not as they were: the import says `verta_local`, and `Client()` needs no host and
# no key. Data: breast cancer diagnoses, which ship with scikit-learn.
#
# `pip install "verta_local[sklearn]"`

# %%
import itertools

import sklearn
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import verta_local as verta
from verta_local.utils import ModelAPI

PROJECT_NAME = "Breast Cancer Diagnosis"
EXPERIMENT_NAME = "Logistic Regression"

# %%
client = verta.Client()
proj = client.set_project(PROJECT_NAME)
expt = client.set_experiment(EXPERIMENT_NAME)

# %% [markdown]
# ## Data

# %%
data = load_breast_cancer()
X_rest, X_test, y_rest, y_test = train_test_split(data.data, data.target, test_size=100, random_state=0)
X_train, X_val, y_train, y_val = train_test_split(X_rest, y_rest, test_size=150, random_state=0)
print(f"{len(X_train)} to train by, {len(X_val)} to choose by, {len(X_test)} to test by")

# %% [markdown]
# ## A run for each point of the grid

# %%
hyperparam_candidates = {
    "C": [1e-3, 1e-2, 1e-1, 1.0, 100.0],
    "solver": ["lbfgs", "liblinear"],
    "max_iter": [1000],
}
hyperparam_sets = [
    dict(zip(hyperparam_candidates, values, strict=True))
    for values in itertools.product(*hyperparam_candidates.values())
]


def run_experiment(hyperparams):
    run = client.set_experiment_run()
    run.log_hyperparameters(hyperparams)

    model = make_pipeline(StandardScaler(), LogisticRegression(**hyperparams))
    model.fit(X_train, y_train)
    run.log_metric("train_acc", model.score(X_train, y_train))
    run.log_metric("val_acc", model.score(X_val, y_val))

    run.log_model(model, model_api=ModelAPI(X_train, model.predict(X_train)))
    run.log_requirements([f"scikit-learn=={sklearn.__version__}"])


for hyperparams in hyperparam_sets:
    run_experiment(hyperparams)

# %% [markdown]
# ## Queries
#
# A list of runs is asked again each time it is looked at; the end of a cell shows it as a table.

# %%
best_runs = expt.expt_runs.top_k("metrics.val_acc", 5)
best_runs

# %%
good = expt.expt_runs.find("metrics.val_acc >= 0.96", "hyperparameters.solver == 'lbfgs'")
print(f"{len(good)} of {len(expt.expt_runs)} runs")
for run in good.sort("hyperparameters.C"):
    print(run.get_hyperparameter("C"), round(run.get_metric("val_acc"), 4))

# %%
best_run = best_runs[0]
best_run.log_tag("best")
best_run.get_hyperparameters()

# %% [markdown]
# ## Deploy, and ask
#
# The model is served from a process of its own until `undeploy()`. The answers came over HTTP.

# %%
best_run.deploy(wait=True)["status"]

# %%
deployed_model = best_run.get_deployed_model()
answers = [deployed_model.predict([x])[0] for x in X_test]
print("served:", answers[:12])
print("truth: ", y_test[:12].tolist())
print(f"accuracy over HTTP: {(y_test == answers).mean():.0%} of {len(answers)}")

# %%
best_run.undeploy(wait=True)["status"]
