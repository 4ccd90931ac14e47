"""The process of a model that runs on Ray, on this side: hands the frames of the local server to Ray and back."""

from __future__ import annotations

import importlib
import json
import logging
from typing import Any

from verta_local.serving.answering import AnswersItself, Reply
from verta_local.serving.frames import Frame

_FAULT = 502


class RayAnswers(AnswersItself):
    """Answers with the replicas of an application of Ray Serve."""

    def __init__(self, application: str, timeout_s: float) -> None:
        serve: Any = importlib.import_module("ray.serve")
        self._handle = serve.get_app_handle(application)
        self._timeout_s = timeout_s
        self._about = dict(self._handle.about.remote().result(timeout_s=timeout_s))

    def about(self) -> dict[str, Any]:
        """What the replica says of its model."""
        return self._about

    def reply_to(self, request: Frame) -> Reply:
        """The answer of whichever replica is least busy."""
        call = self._handle.reply.remote(request.code, request.head, request.meta, request.body)
        try:
            status, body, meta = call.result(timeout_s=self._timeout_s)
        except Exception as error:
            # A replica that died, a cluster that is gone, no answer in time; the model's own faults are answers.
            said = (str(error).strip().splitlines() or [""])[0]
            text = f"the model's replica on Ray gave no answer ({type(error).__name__}: {said})"
            return Reply(_FAULT, json.dumps({"message": text, "error": text}).encode())
        return Reply(status, body, meta)


def connect(spec: dict[str, Any]) -> RayAnswers:
    """The loader of the process; `spec["ray"]` is {"address", "application", "timeout_s"}."""
    ray: Any = importlib.import_module("ray")
    where = spec["ray"]
    ray.init(address=where["address"], log_to_driver=False, logging_level=logging.ERROR, namespace="serve")
    return RayAnswers(where["application"], float(where["timeout_s"]))
