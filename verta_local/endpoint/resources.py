"""What a model's processes may use. As in Verta; here it is checked and recorded, and nothing is limited."""

from __future__ import annotations

import enum
import re
from typing import Any

from .numbers import check_count, check_number

_MEMORY = re.compile(r"[0-9]+(?:e[0-9]+)?(?:[KMGTPE]i?)?")


class NvidiaGPUModel(enum.Enum):
    """The kinds of graphics processors that Verta offered."""

    T4 = "T4"
    V100 = "V100"


class NvidiaGPU:
    """Graphics processors: how many, and of which model. Raises TypeError, ValueError."""

    def __init__(self, number: int, model: NvidiaGPUModel | str | None = None) -> None:
        self.number = check_count("number", number)
        if model is not None and not isinstance(model, (str, NvidiaGPUModel)):
            raise TypeError(f"model must be a NvidiaGPUModel, not {type(model).__name__}")
        self.model = None if model is None else NvidiaGPUModel(model)

    def to_record(self) -> dict[str, Any]:
        """As JSON values."""
        return {"number": self.number, "model": self.model.value if self.model else None}


class Resources:
    """Processors and memory for each process of a model.

    Args:
        cpu: processor cores, also parts of one.
        memory: bytes, with a unit as Kubernetes writes it: "512Mi", "2G", "128974848".
        nvidia_gpu: a `NvidiaGPU`.

    Raises:
        TypeError: values of another type. ValueError: a number that is not over 0, or memory of another form.

    Differs from Verta: there is no cluster that would set a limit; what is given is recorded with the update.
    """

    def __init__(
        self, cpu: float | None = None, memory: str | None = None, nvidia_gpu: NvidiaGPU | None = None
    ) -> None:
        self.cpu = None if cpu is None else check_number("cpu", cpu)
        if memory is not None:
            if not isinstance(memory, str):
                raise TypeError(f"memory must be a str such as '512Mi', not {type(memory).__name__}")
            if not _MEMORY.fullmatch(memory):
                raise ValueError(f"memory must be a number of bytes such as '512Mi', not {memory!r}")
        self.memory = memory
        if nvidia_gpu is not None and not isinstance(nvidia_gpu, NvidiaGPU):
            raise TypeError(f"nvidia_gpu must be a NvidiaGPU, not {type(nvidia_gpu).__name__}")
        self.nvidia_gpu = nvidia_gpu

    def to_record(self) -> dict[str, Any]:
        """What was said, as JSON values."""
        gpu = None if self.nvidia_gpu is None else self.nvidia_gpu.to_record()
        found = {"cpu": self.cpu, "memory": self.memory, "nvidia_gpu": gpu}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> Resources:
        """Resources of a config file: `cpu`, `memory`, `nvidia_gpu` ({"number", "model"})."""
        gpu = given.get("nvidia_gpu")
        return cls(given.get("cpu"), given.get("memory"), None if gpu is None else NvidiaGPU(**gpu))
