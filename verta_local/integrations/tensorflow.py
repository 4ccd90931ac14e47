"""TensorFlow and TensorBoard: a session hook and event files into a run, as `verta.integrations.tensorflow`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from verta_local.errors import MissingExtra
from verta_local.integrations.event_files import event_files, scalars_of
from verta_local.integrations.recorder import Recorder

if TYPE_CHECKING:
    from verta_local.run import ExperimentRun


def log_tensorboard_events(run: ExperimentRun, log_dir: str | os.PathLike[str]) -> int:
    """Logs the scalars in TensorBoard's event files as observations, and returns how many.

    A series is named by its tag, with the sub-folder before it (`train/epoch_loss`, `validation/epoch_loss`, as the
    Keras callback writes them); a point has the event's step as its epoch and the event's time. As in Verta; differs:
    neither TensorFlow nor TensorBoard is needed, so that PyTorch's SummaryWriter is read as well.

    Raises:
        FileNotFoundError: there is no such folder, or no event file in it.
    """
    files = event_files(log_dir)
    if not files:
        raise FileNotFoundError(f"there are no TensorBoard event files in {os.fspath(log_dir)!r} or below")
    recorder = Recorder(run)
    count = 0
    for folder, path in files:
        for point in scalars_of(path):
            name = f"{folder}/{point.tag}" if folder else point.tag
            step = point.step if point.step >= 0 else None
            recorder.observations({name: point.value}, epoch=step, timestamp=point.wall_time_s)
            count += 1
    return count


def _make_hook_class() -> type:
    try:
        import tensorflow  # noqa: PLC0415 - only for this class; log_tensorboard_events does without
    except ImportError as error:
        raise MissingExtra(
            "verta_local.integrations.tensorflow.VertaHook needs TensorFlow; install it with: pip install tensorflow"
        ) from error
    v1 = tensorflow.compat.v1

    class VertaHook(v1.train.SessionRunHook):  # type: ignore[name-defined]
        """A hook for TensorFlow 1's estimators and `MonitoredTrainingSession(hooks=[VertaHook(run)])`.

        Every `every_n_steps` global steps it logs each scalar summary of the graph, and each loss in it, as an
        observation with the global step as its epoch. As in Verta. Estimators are gone from TensorFlow 2.16 on; with
        Keras use `integrations.keras.VertaCallback`.

        Raises:
            ValueError: `every_n_steps` is no whole number above zero.
        """

        def __init__(self, run: ExperimentRun, every_n_steps: int = 1000) -> None:
            if isinstance(every_n_steps, bool) or not isinstance(every_n_steps, int) or every_n_steps < 1:
                raise ValueError(f"every_n_steps must be a whole number above zero, not {every_n_steps!r}")
            self._recorder = Recorder(run)
            self._every_n_steps = every_n_steps
            self._last_step: int | None = None

        def begin(self) -> None:
            """Finds the global step, the summaries and the losses of the graph."""
            self._step = v1.train.get_global_step()
            if self._step is None:
                raise RuntimeError("VertaHook needs a global step: call tf.compat.v1.train.get_or_create_global_step()")
            losses = v1.get_collection(v1.GraphKeys.LOSSES)
            self._fetches = {"losses": {tensor.op.name: tensor for tensor in losses}}
            summaries = v1.get_collection(v1.GraphKeys.SUMMARIES)
            if summaries:
                self._fetches["summary"] = v1.summary.merge(summaries)

        def before_run(self, run_context: Any) -> Any:
            """Asks for the values of this step."""
            return v1.train.SessionRunArgs({"step": self._step, **self._fetches})

        def after_run(self, run_context: Any, run_values: Any) -> None:
            """Logs them, every so many steps."""
            found = run_values.results
            step = int(found["step"])
            if self._last_step is not None and step - self._last_step < self._every_n_steps:
                return
            self._last_step = step
            self._recorder.observations(found["losses"], epoch=step)
            if "summary" in found:
                summary = v1.Summary.FromString(found["summary"])
                scalars = {each.tag: each.simple_value for each in summary.value if each.HasField("simple_value")}
                self._recorder.observations(scalars, epoch=step)

    VertaHook.__module__ = __name__
    return VertaHook


def __getattr__(name: str) -> Any:
    # TensorFlow takes seconds to import, and reading event files does without.
    if name == "VertaHook":
        made = _make_hook_class()
        setattr(sys.modules[__name__], name, made)
        return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
