"""scikit-learn: importing this lets every estimator's `fit` take `run=`, as `verta.integrations.sklearn`.

The patch is global, which is Verta's way and has a price: whoever else uses scikit-learn in this process gets it too.
It is kept as small as it can be: only `fit`, only once however often this is imported, the signature unchanged for
whoever inspects it, and without `run=` nothing but one look into the arguments. Classes that are imported or defined
later are reached too, so that not all of scikit-learn is imported for it (which Verta did). `unpatch()` takes it back,
and `log_params(estimator, run)` does the same without any patch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from verta_local.errors import MissingExtra
from verta_local.integrations.recorder import Recorder

try:
    from sklearn.base import BaseEstimator
except ImportError as error:
    raise MissingExtra(
        "verta_local.integrations.sklearn needs scikit-learn; install it with: pip install scikit-learn"
    ) from error

if TYPE_CHECKING:
    from verta_local.run import ExperimentRun

_MARK = "_verta_local_original"


def log_params(estimator: Any, run: ExperimentRun) -> None:
    """Logs an estimator's parameters as hyperparameters; what is no number, text, bool or None as its repr."""
    Recorder(run).hyperparameters(estimator.get_params())


def patch() -> None:
    """Lets `fit` take `run=`. Done by the import of this module; again, it changes nothing."""
    for cls in _estimators():
        _patch_class(cls)
    if hasattr(BaseEstimator.__init_subclass__, _MARK):
        return
    original = BaseEstimator.__dict__.get("__init_subclass__")

    def init_subclass(cls: Any, /, **kwargs: Any) -> None:
        if original is None:
            super(BaseEstimator, cls).__init_subclass__(**kwargs)
        else:
            original.__func__(cls, **kwargs)
        _patch_class(cls)

    setattr(init_subclass, _MARK, original)
    BaseEstimator.__init_subclass__ = classmethod(init_subclass)


def unpatch() -> None:
    """Takes the patch back everywhere."""
    for cls in _estimators():
        fit = cls.__dict__.get("fit")
        if hasattr(fit, _MARK):
            cls.fit = getattr(fit, _MARK)
    if hasattr(BaseEstimator.__init_subclass__, _MARK):
        original = getattr(BaseEstimator.__init_subclass__, _MARK)
        del BaseEstimator.__init_subclass__
        if original is not None:
            BaseEstimator.__init_subclass__ = original


def _estimators() -> Iterator[Any]:
    """Every subclass of BaseEstimator that exists now."""
    seen: set[type] = set()
    waiting: list[Any] = [BaseEstimator]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            if cls not in seen:
                seen.add(cls)
                waiting.append(cls)
                yield cls


def _patch_class(cls: Any) -> None:
    fit = cls.__dict__.get("fit")
    # What is inherited is patched where it is defined; descriptors (a fit that is there at times) are left alone.
    if not callable(fit) or hasattr(fit, _MARK):
        return

    @functools.wraps(fit)
    def fit_and_log(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = kwargs.pop("run", None)
        if run is not None:
            log_params(self, run)
        return fit(self, *args, **kwargs)

    setattr(fit_and_log, _MARK, fit)
    cls.fit = fit_and_log


patch()
