"""A digest is SHA-256 as every other tool prints it, and nothing else becomes a path."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verta_store import digest
from verta_store.errors import StoreError


@given(st.binary(max_size=3000))
def test_the_digest_of_bytes_is_their_sha256(data: bytes) -> None:
    assert digest.digest_of_bytes(data) == "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size_bytes", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_000])
@pytest.mark.parametrize("has_readv", [True, False])
def test_a_file_has_the_digest_of_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int, has_readv: bool
) -> None:
    if not has_readv:
        monkeypatch.delattr(os, "readv")
    data = os.urandom(size_bytes)
    (tmp_path / "file").write_bytes(data)
    assert digest.digest_of_file(tmp_path / "file") == (digest.digest_of_bytes(data), size_bytes)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_prints_the_same_digits(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    printed = subprocess.run(["sha256sum", tmp_path / "file"], capture_output=True, text=True, check=True).stdout
    assert "sha256:" + printed.split()[0] == digest.digest_of_bytes(b"hello")


@given(st.text(max_size=80) | st.from_regex(r"sha256:[0-9a-fA-F./]{60,68}", fullmatch=True))
def test_only_a_digest_becomes_a_path(text: str) -> None:
    if digest.is_digest(text):
        top, shard, rest = digest.shard(text).split("/")
        assert (top, len(shard), len(rest)) == ("sha256", 2, 62) and text == f"sha256:{shard}{rest}"
        assert set(shard + rest) <= set("0123456789abcdef")
    else:
        with pytest.raises(StoreError, match="64 hexadecimal digits"):
            digest.shard(text)
