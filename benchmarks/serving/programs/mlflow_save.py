"""Saves the echo model in MLflow's form, for `mlflow models serve`: FOLDER [ARTIFACT]."""

from __future__ import annotations

import sys
import time

import mlflow.pyfunc
from model import Echo


class EchoForMlflow(mlflow.pyfunc.PythonModel):
    """MLflow's base class around the same model."""

    def load_context(self, context) -> None:
        """Gives the model its artifact."""
        self.model = Echo(dict(context.artifacts))

    def predict(self, context, model_input, params=None):
        """The request's `inputs` arrive as an array."""
        return self.model.predict(model_input)


begin = time.perf_counter()
mlflow.pyfunc.save_model(
    sys.argv[1],
    python_model=EchoForMlflow(),
    artifacts={"data": sys.argv[2]} if len(sys.argv) > 2 else None,
    code_paths=[__file__.replace("programs/mlflow_save.py", "model.py")],
    pip_requirements=["mlflow"],
)
print(time.perf_counter() - begin)
