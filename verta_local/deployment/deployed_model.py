"""`DeployedModel`: predictions over HTTP, with Verta's names, forms and errors."""

from __future__ import annotations

import gzip
import importlib
import json
import random
import re
import shlex
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from verta_local.deployment.connection import KeepAlive, ModelUnreachable, PredictionTimeout, Response
from verta_local.errors import DeploymentError, VertaLocalError, as_http_error
from verta_local.values import to_builtin

__all__ = ["DeployedModel", "ModelUnreachable", "PredictionHTTPError", "PredictionTimeout"]

_CONNECT_TIMEOUT_S = 5.0
_TIMEOUT_S = 600.0  # the server's own limits are far below; this only bounds a server that hangs
_RETRY_WITHIN_S = 120.0
_LONGEST_PAUSE_S = 5.0
_PREDICTION_ID = re.compile(r"[!-~]{1,200}")
_HEADER = re.compile(r"[\t -~\x80-\xff]*")  # what HTTP and the standard library let through


class PredictionHTTPError(DeploymentError):
    """The server refused a prediction; `status_code` is the HTTP status, `message` what it said.

    As in Verta also a `requests.HTTPError`, where the process has imported `requests`.
    """

    def __init__(self, status_code: int, message: str, url: str) -> None:
        super().__init__(status_code, message, url)
        self.status_code = status_code
        self.message = message
        self.url = url

    def __str__(self) -> str:
        return f"{self.status_code} for url {self.url}: {self.message}"


class DeployedModel:
    """A model that is deployed somewhere; threads may share one object.

    `DeployedModel(prediction_url, token)` as in Verta's later client. `DeployedModel(host, run_id)` as in its first
    one looks for the run among this machine's deployments, whatever the host says. `creds` is a mapping of further
    headers, or an object whose `headers()` gives one. A prediction waits at most `timeout_s` for its answer and
    keeps on for at most `retry_within_s` while the server says that the model is loading or busy.

    Differs from Verta: an unknown URL (404) or a broken connection is an error at once, not after ten minutes.
    Raises: ValueError for a URL that is not one of a prediction, or a token that no header can hold; RuntimeError
    when the run is not deployed, or is deployed from several stores.
    """

    def __init__(
        self,
        prediction_url: str | None = None,
        token: str | None = None,
        creds: Any = None,
        *,
        host: str | None = None,
        run_id: str | None = None,
        timeout_s: float = _TIMEOUT_S,
        retry_within_s: float = _RETRY_WITHIN_S,
    ) -> None:
        address = prediction_url if prediction_url is not None else host
        if not isinstance(address, str):
            raise ValueError("DeployedModel needs a prediction URL, or a host and a run id")
        is_prediction_url = "/predict/" in address
        if not is_prediction_url and (run_id or token):
            # As in Verta's first client: the second argument is the run's id.
            address, token = _look_up(run_id or str(token))
        self._url = _checked_url(address)
        self._token = token
        self._creds = creds
        self._retry_within_s = retry_within_s
        parts = urllib.parse.urlsplit(self._url)
        self._target = parts.path + (f"?{parts.query}" if parts.query else "")
        self._connection = KeepAlive(parts.scheme, parts.hostname or "", parts.port, _CONNECT_TIMEOUT_S, timeout_s)
        self._base_headers = self._make_headers()

    @classmethod
    def from_url(cls, url: str, token: str | None = None, creds: Any = None) -> DeployedModel:
        """The model at a prediction URL."""
        return cls(url, token, creds)

    def __repr__(self) -> str:
        return f"<DeployedModel at {self._url}>"

    @property
    def prediction_url(self) -> str:
        """The URL that predictions go to."""
        return self._url

    def headers(self) -> dict[str, str]:
        """The headers of a prediction request, as a copy; the access token is among them."""
        return dict(self._base_headers)

    def get_curl(self) -> str:
        """A command line that predicts, but for the input between the quotes after `-d`."""
        words = " ".join(f"-H {shlex.quote(f'{name}: {value}')}" for name, value in self._base_headers.items())
        return f"curl -X POST {self._url} -d '' -H 'Content-Type: application/json' {words}".rstrip()

    def predict(
        self,
        x: Any,
        compress: bool = False,
        max_retries: int | None = None,
        retry_status: object = None,
        backoff_factor: float | None = None,
        prediction_id: str | None = None,
        always_retry_404: bool | None = None,
        always_retry_429: bool | None = None,
    ) -> Any:
        """The model's answer to `x`: anything with a JSON form, NumPy and pandas values included.

        `compress` gzips the request. `max_retries` bounds how often it is sent again while the model loads or is busy
        (0: never); None: as often as the time allows. The other retry
        arguments of Verta's clients are accepted and have no effect: what can be repeated is repeated.

        Raises:
            RuntimeError: "deployed model encountered an error: ..." with the model's own traceback; also
                PredictionHTTPError, for a wrong token or URL.
            ConnectionError: no server answers.
            TimeoutError: the answer did not come in time.
            TypeError: `x` has no JSON form.
            ValueError: nor has it with bytes that are not UTF-8, or when it holds itself; a prediction id that no
                header can hold; the answer is not JSON.
        """
        return self.predict_with_id(x, compress, max_retries, prediction_id=prediction_id)[1]

    def predict_with_id(
        self,
        x: Any,
        compress: bool = False,
        max_retries: int | None = None,
        retry_status: object = None,
        backoff_factor: float | None = None,
        prediction_id: str | None = None,
    ) -> tuple[str, Any]:
        """As `predict`; returns (the prediction's id, the answer). `prediction_id` None: the server makes one."""
        response = self._post(self._target, x, compress, prediction_id, max_retries)
        return response.headers.get("verta-request-id", ""), _json_of(response)

    def batch_predict(
        self,
        df: Any,
        batch_size: int = 100,
        compress: bool = False,
        max_retries: int | None = None,
        retry_status: object = None,
        backoff_factor: float | None = None,
        prediction_id: str | None = None,
    ) -> Any:
        """The DataFrame of answers to a DataFrame, sent in slices of `batch_size` rows to `model.batch_predict`.

        Raises: as `predict`; ImportError without pandas; ValueError for a batch size below 1.
        """
        pandas: Any = importlib.import_module("pandas")  # optional library

        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        before, _, after = self._target.rpartition("/predict/")
        target = f"{before}/batch-predict/{after}"
        pieces = []
        for start in range(0, max(len(df), 1), batch_size):
            table = df.iloc[start : start + batch_size].to_dict("split")
            response = self._post(target, table, compress, prediction_id, max_retries)
            answer = _json_of(response)
            if not isinstance(answer, dict) or not {"data", "index", "columns"} <= answer.keys():
                raise ValueError("the answer to batch_predict must be a table of data, index and columns")
            pieces.append(pandas.DataFrame(answer["data"], answer["index"], answer["columns"]))
        return pandas.concat(pieces)

    def close(self) -> None:
        """Closes the idle connections; the object stays usable."""
        self._connection.close()

    def _make_headers(self) -> dict[str, str]:
        headers = {"Accept": "*/*", "User-Agent": "verta_local"}
        creds = self._creds.headers() if callable(getattr(self._creds, "headers", None)) else self._creds
        if isinstance(creds, Mapping):
            headers.update({str(name): str(value) for name, value in creds.items()})
        if self._token:
            headers["Access-Token"] = self._token
        for name, text in headers.items():
            if not _HEADER.fullmatch(text):
                raise ValueError(f"the header {name} cannot hold control characters, or text outside Latin-1")
        return headers

    def _post(
        self, target: str, value: Any, compress: bool, prediction_id: str | None, max_retries: int | None
    ) -> Response:
        body = _json_body(value)
        headers = dict(self._base_headers)
        if compress:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body)
        if prediction_id is not None:
            headers["verta-request-id"] = _checked_id(prediction_id)
        deadline = time.monotonic() + self._retry_within_s
        retries = 0
        while True:
            response = self._connection.request("POST", target, body, headers)
            if 200 <= response.status < 300:
                return response
            pause_s = _pause_s(response)
            is_last = max_retries is not None and retries >= max_retries
            retries += 1
            if pause_s is None or is_last or time.monotonic() + pause_s > deadline:
                raise self._error_of(response)
            time.sleep(pause_s)

    def _error_of(self, response: Response) -> VertaLocalError:
        try:
            found = json.loads(response.body)
        except ValueError:
            found = None
        message = found.get("message") if isinstance(found, dict) else None
        if response.status in (400, 502) and message is not None:
            return DeploymentError(f"deployed model encountered an error: {message}")
        text = message if message is not None else response.body[:500].decode("utf-8", "replace")
        error = PredictionHTTPError(response.status, str(text) or response.reason, self._url)
        return as_http_error(error, response.status, response.reason)


def _json_body(value: Any) -> bytes:
    try:
        return json.dumps(to_builtin(value)).encode("ascii")
    except (TypeError, ValueError) as error:
        # The conversion is that of logged values, and says so.
        why = str(error).replace(" to be logged as a value", "")
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"the input of predict() has no JSON form: {why}") from None


def _checked_id(prediction_id: object) -> str:
    text = str(prediction_id)
    if not _PREDICTION_ID.fullmatch(text):
        raise ValueError(
            f"a prediction id is 1 to 200 printable ASCII characters without blanks, not {text!r:.100}: "
            "it travels in a header"
        )
    return text


def _pause_s(response: Response) -> float | None:
    """How long to wait before the same request again; None when it is not to be sent again.

    Only an answer that names a time is temporary (the model loads, or its queue is full): nothing was run then.
    """
    if response.status not in (429, 503):
        return None
    try:
        wanted_s = float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return min(max(wanted_s, 0.1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)


def _json_of(response: Response) -> Any:
    try:
        return json.loads(response.body)
    except ValueError as error:
        raise ValueError(f"the answer of the deployed model is not JSON: {error}") from None


def _checked_url(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "/predict/" not in parts.path:
        raise ValueError(f"not a prediction URL: {url!r}; it looks like http://HOST:PORT/api/v1/predict/RUN_ID")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError(f"not a prediction URL: {url!r}; its port is not a number up to 65535") from None
    return url


def _look_up(run_id: str) -> tuple[str, str | None]:
    from verta_local.deployment import local  # noqa: PLC0415 - start-up time, and only this form needs it

    found = [status for status in local.list_deployments() if status["run_id"] == run_id]
    if not found:
        raise DeploymentError(f"model is not currently deployed (run {run_id}): call run.deploy(wait=True) first")
    if len({status["store_id"] for status in found}) > 1:
        urls = ", ".join(status["url"] for status in found)
        raise DeploymentError(f"run {run_id} is deployed from several stores: give the prediction URL, one of {urls}")
    return found[0]["url"], found[0]["token"]
