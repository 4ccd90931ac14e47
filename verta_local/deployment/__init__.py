"""The client side of deployments: predicting (`DeployedModel`) and deploying on this machine (`local`)."""

from __future__ import annotations

from verta_local.deployment.decorators import prediction_input_unpack, prediction_io_cleanup
from verta_local.deployment.deployed_model import (
    DeployedModel,
    ModelUnreachable,
    PredictionHTTPError,
    PredictionTimeout,
)

__all__ = [
    "DeployedModel",
    "ModelUnreachable",
    "PredictionHTTPError",
    "PredictionTimeout",
    "prediction_input_unpack",
    "prediction_io_cleanup",
]
