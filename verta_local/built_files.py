"""What is in a folder of `verta-local build`: the names that tell it, and the texts: `serve.py`, Dockerfile, ..."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

SPEC_FILE = "spec.json"
STORE_FOLDER = "store"
PORT = 8080
_NAME_CHARACTERS = 16  # with what is added, 27 are left for a namespace
TOKEN_VARIABLE = "VERTA_LOCAL_TOKEN"


def is_built(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder that `build` made."""
    return os.path.isfile(os.path.join(path, SPEC_FILE)) and os.path.isdir(os.path.join(path, STORE_FOLDER))


def serve_program() -> str:
    """`serve.py`."""
    return f'''"""Serves the model in this folder: python serve.py [--host 0.0.0.0] [--port {PORT}] [--replicas 2] ...

The token that callers must send as `Access-Token` is that of the variable {TOKEN_VARIABLE}, else a random one.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

if __name__ == "__main__":
    sys.path.insert(0, os.path.join(HERE, "lib"))
    from verta_local.cli import main

    sys.exit(main(["serve", HERE, "--trust", *sys.argv[1:]]))
'''


def dockerfile(content: Mapping[str, Any]) -> str:
    """`Dockerfile`: the Python that logged the model, its requirements, then the folder."""
    found = re.match(r"\d+\.\d+", str(content.get("python")))
    minor = found[0] if found else "3.11"
    return f"""FROM python:{minor}-slim
WORKDIR /model
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY --chown=1000:1000 . .
USER 1000
ENV VERTA_LOCAL_STATE=/tmp/verta_local/state VERTA_LOCAL_CACHE=/tmp/verta_local/cache
EXPOSE {PORT}
CMD ["python", "serve.py", "--host", "0.0.0.0", "--port", "{PORT}", "--allow-host", "*"]
"""


def kserve_manifest(content: Mapping[str, Any]) -> str:
    """`kserve.yaml`: an InferenceService with the image of the Dockerfile. The token comes from a Secret."""
    name = resource_name(content)
    variables = "".join(
        f"          - name: {json.dumps(variable)}\n"
        f"            valueFrom: {{secretKeyRef: {{name: {name}, key: {json.dumps(key)}}}}}\n"
        for variable, key in [(TOKEN_VARIABLE, "token"), *((each, each) for each in content["env_names"])]
    )
    return f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
spec:
  predictor:
    containers:
      - name: kserve-container
        image: {name}:latest
        ports:
          - containerPort: {PORT}
            protocol: TCP
        env:
{variables}        readinessProbe:
          httpGet: {{path: /health/ready, port: {PORT}}}
        livenessProbe:
          httpGet: {{path: /health/live, port: {PORT}}}
"""


def readme(content: Mapping[str, Any]) -> str:
    """`README.md`."""
    name, run_id = resource_name(content), content["run_id"]
    variables = ""
    if content["env_names"]:
        listed = ", ".join(f"`{each}`" for each in content["env_names"])
        variables = f"\nThe model was logged with these environment variables, whose values are not here: {listed}.\n"
    keys = [TOKEN_VARIABLE, *content["env_names"]]
    literals = " ".join(f"--from-literal={'token' if key == TOKEN_VARIABLE else key}=..." for key in keys)
    return f"""# The model of run {one_line(content.get("run_name") or run_id)}

All that is needed to serve it is in this folder; every byte of the model and its artifacts is checked against its
digest before it is used.
{variables}
On this machine, in a virtual environment:

    python -m pip install -r requirements.txt
    python serve.py --port {PORT}

As a container:

    docker build -t {name} .
    docker run -p {PORT}:{PORT} -e {TOKEN_VARIABLE}=... {name}

On KServe, with the image in a registry that the cluster reaches (its name goes into kserve.yaml):

    kubectl create secret generic {name} {literals}
    kubectl apply -f kserve.yaml

Ask it:

    curl -X POST http://127.0.0.1:{PORT}/api/v1/predict/{run_id} -H "Access-Token: ..." -d '[1, 2, 3]'

It speaks the Open Inference Protocol too: /v2/models/{run_id}/infer. `python serve.py --help` names all settings.
"""


def resource_name(content: Mapping[str, Any]) -> str:
    """A name that images and Kubernetes take: of the run's name, with a part of its id.

    KServe makes `NAME-predictor-NAMESPACE` of it, which is one label of a host name: 63 characters at most.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", str(content.get("run_name") or "model").lower()).strip("-")
    first = plain if plain[:1].isalpha() else f"model-{plain}"
    return f"{first[:_NAME_CHARACTERS].strip('-')}-{re.sub('[^a-z0-9]+', '', str(content['run_id']).lower())[:8]}"


def one_line(text: str) -> str:
    """A name as it may stand in a heading."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
