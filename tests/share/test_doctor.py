"""`verta-local init --shared` and `doctor`, as a person at a terminal sees them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from verta_local.cli import main


def test_init_shared_makes_a_store_for_the_group_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "store"), "--shared"]) == 0
    out = capsys.readouterr().out
    assert "made a store in" in out and "the members of the group" in out
    assert json.loads((tmp_path / "store" / "store.json").read_text())["sharing"] == "group"
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "store" / "journals").stat().st_mode) == 0o2775
    command = [sys.executable, "-m", "verta_local", "init", str(tmp_path / "store"), "--shared"]
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "there is a store already" in again.stdout


def test_a_private_store_does_not_become_a_shared_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "store")]) == 0
    assert main(["init", str(tmp_path / "store"), "--shared"]) == 1
    assert "make another one in a new folder" in capsys.readouterr().err


def test_doctor_tells_of_the_store_its_drive_and_its_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init", str(tmp_path / "store"), "--shared=all"])
    store_id = json.loads((tmp_path / "store" / "store.json").read_text())["store_id"]
    capsys.readouterr()
    assert main(["doctor", str(tmp_path / "store")]) == 0
    out = capsys.readouterr().out
    for word in (store_id, "format 2", "everybody", "index.sqlite", "hard links", "free space", "clock of the drive"):
        assert word in out, word
    assert not os.listdir(tmp_path / "store" / "tmp")


def test_doctor_looks_at_a_folder_that_is_no_store_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(tmp_path)]) == 0
    assert "no store yet" in capsys.readouterr().out
    assert not os.listdir(tmp_path)
    assert main(["doctor", str(tmp_path / "nowhere")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_doctor_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["is_usable"] and {"what", "found", "is_good", "meaning"} == set(found["findings"][0])


def test_doctor_finds_every_vice_of_a_bad_network_drive(
    new_host: Callable[..., Any], drive: Path, tmp_path: Path
) -> None:
    environment = {"VERTA_LOCAL_CACHE": str(drive / "cache"), "TMPDIR": str(tmp_path)}
    host = new_host("ant", environment=environment, clock_ahead_s=40)
    host.do(f"from verta_local import Client; Client({str(drive / 'store')!r})")
    host.do("import contextlib, io; from verta_local.cli import main; out = io.StringIO()")
    host.do(f"with contextlib.redirect_stdout(out):\n    code = main(['doctor', {str(drive / 'store')!r}, '--json'])")
    found = json.loads(host.tell("out.getvalue()"))
    assert host.tell("code") == 0 and found["is_usable"]
    assert "nfs4 server:/team" in found["drive"] and "a network drive" in found["drive"]
    answers = {finding["what"]: finding["found"] for finding in found["findings"]}
    for lacking in ("renaming what is open", "hard links", "symbolic links", "modes (chmod)", "case of names"):
        assert answers[lacking] == "no", lacking
    for there in ("creating a file once", "renaming", "reading back", "syncing a file"):
        assert answers[there] == "yes", there
    assert answers["steps of time stamps"] == "2 s" and 35 < float(answers["clock of the drive"].split()[0]) <= 40
    assert "verta_local-" in found["index"] and "an index is not safe" in found["note 1"]


def test_doctor_refuses_a_drive_on_which_a_store_cannot_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = os.open
    # A drive on which exclusive creation is none, as on NFS 2.
    monkeypatch.setattr(os, "open", lambda path, flags, *a, **k: real(path, flags & ~os.O_EXCL, *a, **k))
    assert main(["doctor", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "NOT USABLE" in out and "creating a file once" in out


def test_a_new_private_store_on_a_network_drive_is_told_of_sharing(new_host: Callable[..., Any], drive: Path) -> None:
    host = new_host("ant")
    host.do(f"from verta_local import Client; client = Client({str(drive / 'store')!r})")
    assert "init PATH --shared" in "".join(host.tell("client._store.notes"))


def test_conflicts_of_a_store_without_any(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "verta_local", "--store", str(tmp_path / "store")]
    subprocess.run([*command[:3], "init", str(tmp_path / "store")], check=True, capture_output=True)
    done = subprocess.run([*command, "conflicts"], check=True, capture_output=True, text=True)
    assert "no conflicts" in done.stdout
