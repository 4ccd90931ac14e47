"""Images: from a path, a stream, a Matplotlib figure or a Pillow image to an artifact, and back. As in Verta.

No library is imported to log one: a figure can only exist when its library is loaded already.
"""

from __future__ import annotations

import io
import sys
import warnings
from types import ModuleType
from typing import Any


def to_png(image: object) -> io.BytesIO | None:
    """The PNG file of a figure (of `matplotlib.pyplot` itself: the current one) or of a Pillow image; None of others.

    An image that is white all over, as a figure is after it was shown, is warned of.
    """
    stream = io.BytesIO()
    if isinstance(image, ModuleType) and image.__name__ in ("matplotlib.pyplot", "pylab", "matplotlib.pylab"):
        image.savefig(stream, format="png")
    elif _is_instance(image, "matplotlib.figure", "Figure"):
        image.savefig(stream, format="png")  # type: ignore[attr-defined]
    elif _is_instance(image, "PIL.Image", "Image"):
        image.save(stream, format="PNG")  # type: ignore[attr-defined]
    else:
        return None
    if _is_blank(stream):
        warnings.warn(
            "the image is blank (white all over); a figure must be logged before it is shown or closed",
            UserWarning,
            stacklevel=3,
        )
    stream.seek(0)
    return stream


def _is_instance(value: object, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _is_blank(stream: io.BytesIO) -> bool:
    pillow = _pillow()
    if pillow is None:
        return False
    stream.seek(0)
    with pillow.open(stream) as image:
        # Over white, because that is how it is looked at.
        shown = pillow.new("RGB", image.size, "white")
        layer = image.convert("RGBA")
        shown.paste(layer, mask=layer)
        return bool(shown.convert("L").getextrema() == (255, 255))


def open_image(data: bytes) -> Any:
    """A `PIL.Image.Image`; the bytes as BytesIO where they are no image, or Pillow is not installed."""
    pillow = _pillow()
    if pillow is not None:
        try:
            return pillow.open(io.BytesIO(data))
        except OSError:  # what Pillow says of bytes that are no image
            pass
    return io.BytesIO(data)


def _pillow() -> Any:
    try:
        import PIL.Image  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return PIL.Image
