"""An entity with a model's schema: what goes into a prediction and comes out of it, as JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from verta_store.records import ARTIFACTS

from .artifacts import Artifact
from .entity_environment import EntityWithEnvironment

SCHEMA_KEY = "model_schema.json"


class EntityWithSchema(EntityWithEnvironment):
    """A run or a registered model version."""

    def log_schema(self, input: Any, output: Any = None) -> None:
        """Logs what the model takes and gives, as JSON Schema; another call replaces it. As in Verta's last clients.

        Args:
            input, output: a Pydantic model class each, or a JSON Schema as a dict (differs: Verta took classes alone).
                `output` may be left out.

        Raises:
            TypeError: something else.
        """
        schema = {"input": _schema_of("input", input)}
        if output is not None:
            schema["output"] = _schema_of("output", output)
        ref = self._store.put_bytes(json.dumps(schema).encode())
        artifact = Artifact("blob", SCHEMA_KEY, ref.digest, ref.size_bytes, extension="json")
        self._put(ARTIFACTS, {SCHEMA_KEY: artifact.to_record()}, True)
        self._store.flush()

    def get_schema(self) -> dict[str, Any]:
        """{"input": JSON Schema, "output": JSON Schema}, the latter where it was logged.

        Raises:
            KeyError: no schema was logged.
        """
        found = self._artifact(SCHEMA_KEY)
        return dict(json.loads(self._store.read_verified(found.digest)))


def _schema_of(name: str, given: Any) -> dict[str, Any]:
    for method in ("model_json_schema", "schema"):  # Pydantic 2, Pydantic 1
        make = getattr(given, method, None)
        if isinstance(given, type) and callable(make):
            return dict(make())
    if isinstance(given, Mapping):
        return dict(given)
    raise TypeError(
        f"`{name}` must be a Pydantic model class or a JSON Schema as a dict; found {type(given).__name__}"
        + ("" if isinstance(given, type) else "; give the class, not an instance")
    )
