"""A power cut, emulated: what was not synced is gone, zeroed or unnamed.

Bytes beyond the size at a file's last sync are cut off or read back as zeros; names that were made or moved since the
last sync of their folder are gone or moved back, each of them or not, at random. Not emulated: a device that loses
what it had confirmed, and pages of one file that reach the device in another order than they were written.
"""

from __future__ import annotations

import json
import os
import random
import shutil

KINDS = ("bytes cut", "bytes zeroed", "names lost", "both")


def cut_power(root: str, state_path: str, kind: str, choose: random.Random) -> int:
    """Takes from the store what was not durable, as the interposer wrote it down. Returns how many things were hurt."""
    try:
        with open(state_path, encoding="utf-8") as file:
            state = json.load(file)
    except FileNotFoundError:
        return 0
    hurt = 0
    if kind != "names lost":
        synced = {int(inode): size for inode, size in state["synced"].items()}
        hurt += _take_bytes(root, synced, kind == "bytes zeroed" or (kind == "both" and choose.random() < 0.5), choose)
    if kind in ("names lost", "both"):
        hurt += _take_names(state["pending"], choose)
    return hurt


def _take_bytes(root: str, synced: dict[int, int], are_zeroed: bool, choose: random.Random) -> int:
    hurt = 0
    seen: set[int] = set()
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            found = os.lstat(path)
            durable = synced.get(found.st_ino, 0)
            if found.st_ino in seen or os.path.islink(path) or found.st_size <= durable:
                continue
            seen.add(found.st_ino)
            end = durable if choose.random() < 0.5 else choose.randint(durable, found.st_size)
            if end == found.st_size:
                continue
            os.chmod(path, 0o644)
            os.truncate(path, end)
            if are_zeroed:
                os.truncate(path, found.st_size)
            os.chmod(path, found.st_mode & 0o777)
            hurt += 1
    return hurt


def _take_names(pending: list[list[str]], choose: random.Random) -> int:
    hurt = 0
    for made in reversed(pending):
        path = made[-1]
        if choose.random() < 0.3 or not os.path.lexists(path):
            continue
        if made[0] == "moved" and not os.path.lexists(made[1]) and os.path.isdir(os.path.dirname(made[1])):
            os.rename(path, made[1])
        elif os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
        hurt += 1
    return hurt
