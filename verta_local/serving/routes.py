"""What the paths of the prediction protocols mean: which model is asked, for what, in whose way of saying errors."""

from __future__ import annotations

from typing import NamedTuple

from verta_local.serving import frames

PREDICT_PREFIX = "/api/v1/predict/"
BATCH_PREDICT_PREFIX = "/api/v1/batch-predict/"
INFERENCE_PREFIX = "/v2/models/"
TRY_PREFIX = "/try/"
INVOCATIONS_PATH = "/invocations"
_INFER = "/infer"
_VERSIONS = "/versions/"


class Target(NamedTuple):
    """`code` of the frame that asks; `name` of the model, None for the only one of this server; "" for any version."""

    code: int
    name: str | None
    version: str = ""

    @property
    def error_key(self) -> str:
        """Under which name the protocol's clients look for the text of an error."""
        return "error" if self.code == frames.INFER else "message"


def target_of(path: str) -> Target | None:
    """The prediction that a path asks for, None for any other path."""
    if path.startswith(PREDICT_PREFIX):
        return Target(frames.PREDICT, path[len(PREDICT_PREFIX) :])
    if path.startswith(BATCH_PREDICT_PREFIX):
        return Target(frames.BATCH_PREDICT, path[len(BATCH_PREDICT_PREFIX) :])
    if path.startswith(INFERENCE_PREFIX) and path.endswith(_INFER):
        name, version = name_and_version(path[len(INFERENCE_PREFIX) : -len(_INFER)])
        return Target(frames.INFER, name, version)
    if path == INVOCATIONS_PATH:
        return Target(frames.INVOCATIONS, None)
    return None


def name_and_version(text: str) -> tuple[str, str]:
    """`NAME/versions/VERSION` or `NAME` of an inference path."""
    name, _, version = text.rpartition(_VERSIONS)
    return (name, version) if name else (text, "")
