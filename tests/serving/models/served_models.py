"""The models that the serving tests deploy; this folder is on the path of their processes only."""

from __future__ import annotations

import ctypes
import dataclasses
import datetime
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

from verta_local.errors import LoadError


def load(spec):
    """The loader that the tests plug in: the spec names a class below."""
    return globals()[spec["class"]](spec)


class Model:
    def __init__(self, spec):
        self.spec = spec


class Echo(Model):
    def predict(self, data):
        return data


class Name(Model):
    """Says which spec it was loaded from."""

    def predict(self, data):
        return self.spec["version"]


class SlowToLoad(Echo):
    def __init__(self, spec):
        time.sleep(spec.get("seconds", 1.0))
        if spec.get("broken"):
            raise RuntimeError("it was broken after all")
        super().__init__(spec)


class Raises(Model):
    def predict(self, data):
        with open("/tmp/private-folder/index.ann"):
            pass


class RaisesNamed(Model):
    def predict(self, data):
        raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt, "ValueError": ValueError}[data](7)


class CannotWriteItsLog(Model):
    """Raises when nothing that is printed can be kept any more."""

    def predict(self, data):
        if data == "full":
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, 1)
            os.dup2(full, 2)
        if data == "closed":
            sys.stdout.close()
            sys.stderr.close()
        if data == "replaced":
            sys.stdout = sys.stderr = object()
        if data == "pid":
            return os.getpid()
        raise ValueError("what the model says")


class CannotSayWhyItBreaks(Model):
    def __init__(self, spec):
        sys.stderr.close()
        raise FileNotFoundError("index.ann is not what it was")


class Sleeps(Model):
    def predict(self, data):
        time.sleep(data)
        return data


class Draws(Model):
    def predict(self, data):
        import random

        import numpy as np

        return {"random": random.random(), "numpy": np.random.random()}


class PidAfter(Model):
    def predict(self, data):
        time.sleep(data)
        return os.getpid()


class Dies(Model):
    def predict(self, data):
        if data == "exit":
            print("last words", file=sys.stderr)
            os._exit(3)
        if data == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if data == "segfault":
            ctypes.string_at(0)
        if data == "print and raise":
            print("said before", file=sys.stderr)
            raise ValueError("an older mistake")
        if data == "die slowly":
            time.sleep(0.5)
            os._exit(4)
        return os.getpid()


class Answers(Model):
    """Answers with what has no plain JSON form."""

    def predict(self, data):
        import numpy as np

        @dataclasses.dataclass
        class Box:
            left: int
            label: str

        return {
            "nan": [1.0, float("nan"), None],
            "infinite": float("-inf"),
            "array": np.arange(6, dtype="float32").reshape(2, 3),
            "array with nan": np.array([1.0, np.nan]),
            "numpy scalar": np.int64(7),
            "numpy key": {np.int64(1): "one"},
            "bytes": b"\x00\xff",
            "set": {3, 1, 2},
            "day": datetime.date(2020, 3, 13),
            "box": Box(4, "cat"),
            "large": 2**70 + 1,
            "object": {"scores": [1, object()]},
            "key": {(1, 2): 3},
            "itself": _loop(),
        }[data]


def _loop():
    loop = []
    loop.append(loop)
    return loop


class OneThread(Model):
    """Bound to the thread that loaded it, as SQLite connections are."""

    def __init__(self, spec):
        self.connection = sqlite3.connect(":memory:")

    def predict(self, data):
        return self.connection.execute("select ? + 1", (data,)).fetchone()[0]


class Where(Model):
    """Tells what its process sees."""

    def predict(self, data):
        return {
            "folder": os.getcwd(),
            "path": sys.path,
            "variable": os.environ.get("SERVING_TEST_VARIABLE"),
            "main thread": threading.current_thread() is threading.main_thread(),
        }


class BreaksAtLoad(Model):
    def __init__(self, spec):
        print("loading the index")
        raise FileNotFoundError("index.ann is not what it was")


class DiesAtLoad(Model):
    def __init__(self, spec):
        print("about to die", file=sys.stderr)
        os._exit(9)


class DiesAtLoadAndLeavesAFork(Model):
    def __init__(self, spec):
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        with open(spec["marker"], "w") as file:
            file.write(str(pid))
        os._exit(9)


class ExitsAtLoad(Model):
    def __init__(self, spec):
        sys.exit("no GPU found")


class LacksALibrary(Model):
    def __init__(self, spec):
        raise LoadError("the model needs faiss: install it and deploy again", "Traceback of the user")


class FailsItsOwnTest(Echo):
    def model_test(self):
        raise AssertionError("accuracy fell to 0.1")


class LeavesPrograms(Model):
    """Starts a program that would outlive it."""

    def predict(self, data):
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid


class HoldsTheLock(Model):
    """Hangs in C code that does not give up the interpreter lock."""

    def predict(self, data):
        with open(data, "w") as file:
            file.write(str(os.getpid()))
        ctypes.PyDLL(None).sleep(600)


class Prints(Model):
    def predict(self, data):
        print(data)
        return len(data)


class Arguments(Model):
    """Tells the command line that it sees, when it is loaded and later."""

    def __init__(self, spec):
        self.at_load = list(sys.argv)

    def predict(self, data):
        return [self.at_load, sys.argv]


class TakesNothing(Model):
    def predict(self):
        return 1


class Table(Model):
    def predict(self, data):
        return data

    def batch_predict(self, df):
        return df * 2


class TwinColumns(Model):
    """A table of which one column would be lost if columns were keys."""

    def predict(self, data):
        import pandas

        return pandas.DataFrame([[1, 2]], columns=data)


class Json(Model):
    def predict(self, data):
        return json.dumps(data)


class Box(Model):
    def predict(self, data):
        return {"label": "é", "ragged": [[1], [2, 3]], "none": None}


class TypeName(Model):
    def predict(self, data):
        return type(data).__name__


class TakesParams(Model):
    def predict(self, data, params=None):
        return [data, params]


class TakesHeaders(Model):
    def predict(self, data, headers):
        return headers


class Notes(Model):
    def __init__(self, spec):
        from verta_local import runtime

        self.runtime = runtime

    def predict(self, data):
        self.runtime.log("length", len(data))
        self.runtime.log("kind", "word")
        return data
