"""From a request's bytes to the model's answer, in the model's process: one entry for each protocol.

Whatever the model raises, SystemExit and KeyboardInterrupt too, is an answer: a model's word must not end its process.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TextIO

from verta_local.serving import frames, wire
from verta_local.tracebacks import own_traceback, without_folders

_OK = 200
_MODEL_FAULT = 502


class Reply(NamedTuple):
    """An HTTP status, a body, and as the JSON of a dict, where there are any: its own "headers", what was "noted"."""

    status: int
    body: bytes
    meta: bytes = b""


class AnswersItself:
    """What a loader may give in place of a model: something that answers requests in its own way."""

    def about(self) -> dict[str, Any]:
        """As `ModelAnswers.about`."""
        raise NotImplementedError

    def reply_to(self, request: frames.Frame) -> Reply:
        """As `ModelAnswers.reply_to`; from any number of threads."""
        raise NotImplementedError


class ModelAnswers(AnswersItself):
    """Answers requests with one model; from any number of threads."""

    def __init__(self, model: Any, spec: dict[str, Any], body_limit_bytes: int) -> None:
        self._model = model
        self._name = str(spec.get("run_id") or "")
        self._body_limit_bytes = body_limit_bytes
        self._batch_predict = getattr(model, "batch_predict", None)
        self._predict_has = _parameters(model.predict)
        self._batch_has = _parameters(self._batch_predict) if callable(self._batch_predict) else frozenset()

    def about(self) -> dict[str, Any]:
        """What the serving process is told of the model when it is ready, as JSON values."""
        return {
            "batch_predict": callable(self._batch_predict),
            "wants_headers": "headers" in self._predict_has | self._batch_has,
        }

    def reply_to(self, request: frames.Frame) -> Reply:
        """The answer to one request. What the model notes with `runtime.log` goes to its log, and to the access log."""
        runtime: Any = sys.modules.get("verta_local.runtime")
        if runtime is None:  # the model does not use it
            return self._reply_to(request)
        with runtime.context() as noted:
            reply = self._reply_to(request)
        logs = noted.logs()
        if not logs:
            return reply
        say(f"runtime.log {json.dumps(logs)}", sys.stdout)
        meta = {**(json.loads(reply.meta) if reply.meta else {}), "noted": logs}
        return Reply(reply.status, reply.body, json.dumps(meta).encode("ascii"))

    def _reply_to(self, request: frames.Frame) -> Reply:
        code = request.code & ~frames.GZIP
        try:
            body = wire.unzip(request.body, self._body_limit_bytes) if request.code & frames.GZIP else request.body
            # (In the moment of a swap a request may come without the headers that this model takes.)
            if code == frames.PREDICT and not request.meta and "headers" not in self._predict_has:
                return Reply(_OK, wire.encode(self._model.predict(wire.parse(body))))
            meta = json.loads(request.meta) if request.meta else {}
            if code == frames.PREDICT:
                return Reply(_OK, wire.encode(self._predict(wire.parse(body), meta)))
            if code == frames.BATCH_PREDICT:
                return Reply(_OK, wire.encode(self._table_for_table(wire.parse(body), meta)))
            if code == frames.INVOCATIONS:
                return Reply(_OK, self._invocation(body, meta))
            return self._inference(body, meta)
        except wire.BadBody as error:
            return Reply(error.status, _error(code, str(error)))
        except wire.NotJson as error:
            return Reply(_MODEL_FAULT, _error(code, str(error)))
        except BaseException as error:
            text = own_traceback(error)
            say(text, sys.stderr)
            return Reply(_MODEL_FAULT, _error(code, without_folders(text)))

    def _predict(self, value: Any, meta: dict[str, Any], **more: Any) -> Any:
        if "headers" in self._predict_has:
            more["headers"] = meta.get("headers", {})
        return self._model.predict(value, **more)

    def _batch(self, table: Any, meta: dict[str, Any]) -> Any:
        assert self._batch_predict is not None
        if "headers" in self._batch_has:
            return self._batch_predict(table, headers=meta.get("headers", {}))
        return self._batch_predict(table)

    def _table_for_table(self, value: Any, meta: dict[str, Any]) -> Any:
        """Verta's batch-predict: a DataFrame's `split` dict in and out."""
        if self._batch_predict is None:
            raise wire.BadBody("the model has no batch_predict(): send its rows one by one to predict()")
        if not isinstance(value, dict) or not {"columns", "data"} <= value.keys():
            raise wire.BadBody('the body of batch-predict is a table: {"columns": [..], "index": [..], "data": [[..]]}')
        from verta_local.serving import invocations  # noqa: PLC0415 - start-up time

        answer = self._batch(invocations.table_of(value, "batch-predict"), meta)
        pandas: Any = importlib.import_module("pandas")
        if isinstance(answer, pandas.Series):
            answer = answer.to_frame()
        return answer.to_dict("split") if isinstance(answer, pandas.DataFrame) else answer

    def _invocation(self, body: bytes, meta: dict[str, Any]) -> bytes:
        """MLflow's scoring protocol."""
        from verta_local.serving import invocations  # noqa: PLC0415 - start-up time

        asked = invocations.read(body, str(meta.get("content_type") or ""))
        more: dict[str, Any] = {}
        if asked.params:
            if "params" not in self._predict_has:
                raise wire.BadBody("the model's predict() takes no params")
            more["params"] = asked.params
        if asked.is_table and self._batch_predict is not None and not more:
            return invocations.write(self._batch(asked.value, meta))
        return invocations.write(self._predict(asked.value, meta, **more))

    def _inference(self, body: bytes, meta: dict[str, Any]) -> Reply:
        """The Open Inference Protocol, version 2."""
        from verta_local.serving import tensors  # noqa: PLC0415 - start-up time

        asked = tensors.read_request(body, meta.get("json_bytes"))
        answer = self._predict(asked.value, meta)
        content, json_bytes = tensors.write_response(answer, asked, str(meta.get("model") or self._name), self._name)
        if json_bytes is None:
            return Reply(_OK, content)
        headers = {"Inference-Header-Content-Length": str(json_bytes), "Content-Type": "application/octet-stream"}
        return Reply(_OK, content, json.dumps({"headers": headers}).encode("ascii"))


def say(text: str, stream: TextIO | None) -> None:
    """Writes to the model's log, if it can be written: a full disk must not cost an answer, nor what a model does.

    (It may have closed the stream, or put something of its own in its place.)
    """
    with contextlib.suppress(Exception):
        print(text, file=stream, flush=True)


def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # ValueError: written in C, without a signature
        return frozenset()


def _error(code: int, text: str) -> bytes:
    # Each protocol's clients look for the text under a name of their own.
    return json.dumps({"error" if code == frames.INFER else "message": text}).encode()
