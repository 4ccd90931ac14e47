"""Checks that a wheel holds every module of the source tree, under the two top-level names and no other."""

import sys
import zipfile
from pathlib import Path

names = set(zipfile.ZipFile(sys.argv[1]).namelist())
tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
if tops != {"verta_local", "verta_store"}:
    sys.exit(f"the wheel's top-level names are {sorted(tops)}")
sources = {
    str(path.relative_to(root)).replace("\\", "/")
    for root, package in ((Path("."), "verta_local"), (Path("store"), "verta_store"))
    for path in (root / package).rglob("*")
    if path.suffix in (".py", ".typed")
}
missing = sorted(sources - names)
if missing:
    sys.exit(f"not in the wheel: {missing}; is a package missing in setup.cfg?")
print(f"the wheel holds all {len(sources)} files")
