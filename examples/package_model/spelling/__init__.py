"""A spelling corrector, as a user's own package that is installed nowhere: it just lies beside `train.py`."""

from .model import SpellingModel

__all__ = ["SpellingModel"]
