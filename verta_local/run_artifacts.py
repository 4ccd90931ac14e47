"""What a run has besides plain artifacts: images, training data, a setup script."""

from __future__ import annotations

import sys
from typing import Any

from . import artifacts as artifact_rules
from . import values
from .artifacts import SETUP_SCRIPT_KEY, Artifact
from .entity_artifacts import EntityWithArtifacts

# As in Verta: a reserved key, written by its own verb.
TRAINING_DATA_KEY = "train_data"

_IMAGE = "IMAGE"


class RunArtifacts(EntityWithArtifacts):
    """The part of `ExperimentRun` that is about artifacts of a special kind."""

    def log_image(self, key: str, image: Any, overwrite: bool = False) -> None:
        """Logs an image.

        Args:
            image: the path of a file, a file-like object, `matplotlib.pyplot` (its current figure), a figure, a Pillow
                image (as PNG), or any other object, pickled.

        Raises:
            ValueError, FileNotFoundError: as `log_artifact`.

        Warns:
            UserWarning: the image is white all over, as a figure is after `plt.show()`.
        """
        from . import images  # noqa: PLC0415 - start-up time

        artifact_rules.check_not_reserved(key)
        values.check_key(key)
        png = images.to_png(image)

        def store() -> Artifact:
            if png is None:
                return artifact_rules.store_artifact(self._store, key, image, _IMAGE)
            ref = self._store.put_bytes(png.getvalue())
            name = key if key.endswith(".png") else f"{key or 'image'}.png"
            return Artifact("blob", name, ref.digest, ref.size_bytes, extension="png", type=_IMAGE)

        self._log_artifact(key, store, overwrite)

    def log_image_path(self, key: str, image_path: str, overwrite: bool = False) -> None:
        """Logs only the text of an image's path; `get_image` returns it. As in Verta's first clients."""
        self._log_path(key, image_path, overwrite, "image_path", _IMAGE)

    def get_image(self, key: str) -> Any:
        """A `PIL.Image.Image`; a BytesIO where it is no image or Pillow is not installed; a path's text.

        Raises:
            KeyError: no such artifact. MissingObject, CorruptObject: its bytes are gone or damaged.
        """
        from . import images  # noqa: PLC0415 - start-up time

        found = self._artifact(key)
        if found.kind != "blob":
            return self.get_artifact(key)
        return images.open_image(self._store.read_verified(found.digest))

    def log_training_data(self, train_features: Any, train_targets: Any, overwrite: bool = False) -> None:
        """Logs the data that a model was trained on as one CSV file, "train_data". As in Verta's first clients.

        Args:
            train_features: a pandas DataFrame.
            train_targets: a pandas DataFrame or Series.

        Raises:
            TypeError: another type. ValueError: the two share column names; or training data was logged already.
        """
        pandas = sys.modules.get("pandas")  # without it there can be no DataFrame
        if pandas is None or not isinstance(train_features, pandas.DataFrame):
            raise TypeError(f"`train_features` must be a pandas DataFrame, not {type(train_features).__name__}")
        if not isinstance(train_targets, (pandas.DataFrame, pandas.Series)):
            raise TypeError(f"`train_targets` must be a pandas DataFrame or Series, not {type(train_targets).__name__}")
        if isinstance(train_targets, pandas.Series):
            train_targets = train_targets.to_frame()
        shared = sorted(map(str, set(train_features.columns) & set(train_targets.columns)))
        if shared:
            raise ValueError(f"`train_features` and `train_targets` share column names: {shared}; rename one of each")
        if len(train_features) != len(train_targets):
            raise ValueError(
                f"`train_features` has {len(train_features)} rows and `train_targets` has {len(train_targets)}; "
                "give one target for each"
            )

        def store() -> Artifact:
            # Row by row as they stand: the two may have been sliced and have different indexes.
            parts = [part.reset_index(drop=True) for part in (train_features, train_targets)]
            ref = self._store.put_bytes(pandas.concat(parts, axis="columns").to_csv(index=False).encode("utf-8"))
            name = f"{TRAINING_DATA_KEY}.csv"
            return Artifact("blob", name, ref.digest, ref.size_bytes, extension="csv", type="DATA")

        self._log_artifact(TRAINING_DATA_KEY, store, overwrite)

    def log_setup_script(self, script: str, overwrite: bool = False) -> None:
        """Logs Python code that runs before the model is loaded to be served (artifact "setup_script").

        It runs in the model's own process, once the model's modules can be imported. `get_model` does not run it.

        Raises:
            TypeError: not a text. SyntaxError: not Python; the message names the line. ValueError: there is one.
        """
        if not isinstance(script, str):
            raise TypeError(f"`script` must be a str of Python code, not {type(script).__name__}")
        _check_python(script)

        def store() -> Artifact:
            ref = self._store.put_bytes(script.encode("utf-8"))
            name = f"{SETUP_SCRIPT_KEY}.py"
            return Artifact("blob", name, ref.digest, ref.size_bytes, extension="py", type="BLOB")

        self._log_artifact(SETUP_SCRIPT_KEY, store, overwrite)


def _check_python(script: str) -> None:
    try:
        compile(script, "<setup script>", "exec", dont_inherit=True)
    except SyntaxError as error:
        line = (error.text or "").strip()
        made = SyntaxError(f"the setup script is not Python: {error.msg} in line {error.lineno}: {line!r}")
        made.lineno, made.offset, made.text = error.lineno, error.offset, error.text
        made.filename = error.filename
        raise made from None
    except ValueError as error:  # a NUL in it
        raise SyntaxError(f"the setup script is not Python: {error}") from None
