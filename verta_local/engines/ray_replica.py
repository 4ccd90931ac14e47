"""What runs in Ray's own processes: one replica of a model, on whichever node Ray chose.

It answers the same frames as a model's process of the local engine, so every protocol and every fault gives the same
answer. Its artifacts are resolved on its node, from the store at the path that the spec names.
"""

from __future__ import annotations

import asyncio
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from verta_local import config
from verta_local.errors import LoadError
from verta_local.loading import load_model
from verta_local.serving.answering import ModelAnswers
from verta_local.serving.frames import Frame
from verta_local.tracebacks import own_traceback

# Around the text that is for the user, in what Ray says of a replica that did not start.
FAULT_BEGINS = "[the model says]"
FAULT_ENDS = "[end]"


class ModelReplica:
    """One copy of a model; `threads` requests at a time."""

    def __init__(self, spec: dict[str, Any], threads: int, body_limit_bytes: int) -> None:
        try:
            model = load_model(self._on_this_node(spec))
            model_test = getattr(model, "model_test", None)
            if callable(model_test):
                model_test()  # as in Verta: a model's own check, before it gets traffic
        except BaseException as error:
            is_ours = isinstance(error, LoadError)
            text = f"{error.traceback}\n{error}".strip() if is_ours else own_traceback(error)  # type: ignore[attr-defined]
            raise RuntimeError(f"{FAULT_BEGINS}{text}{FAULT_ENDS}") from None
        self._answers = ModelAnswers(model, spec, body_limit_bytes)
        self._threads = ThreadPoolExecutor(threads, "predict")

    def about(self) -> dict[str, Any]:
        """What the serving process is told of the model, and where this replica is."""
        return {**self._answers.about(), "node": platform.node(), "pid": os.getpid()}

    async def reply(self, code: int, head: bytes, meta: bytes, body: bytes) -> tuple[int, bytes, bytes]:
        """Status, body and headers of the answer to one frame."""
        loop = asyncio.get_running_loop()
        reply = await loop.run_in_executor(self._threads, self._answers.reply_to, Frame(0, code, head, meta, body))
        return reply.status, reply.body, reply.meta

    def _on_this_node(self, spec: dict[str, Any]) -> dict[str, Any]:
        if not os.path.isdir(spec["store"]):
            raise LoadError(
                f"the store {spec['store']} is not there on node {platform.node()}: put it on a drive that all nodes "
                "of the cluster have at the same path"
            )
        return {**spec, "cache_dir": os.fspath(config.cache_dir())}
