"""The commands of `verta-local`, as a shell runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import verta_local
from verta_local import Client
from verta_local.cli.parser import make_parser
from verta_local.cli.terminal import print_json


def cli(*arguments: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "verta_local", *arguments]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=50, cwd=cwd)


@pytest.fixture
def store(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    client.set_project("Text search")
    client.set_experiment("Baselines")
    for number, name in enumerate(["first", "second"]):
        run = client.set_experiment_run(name)
        run.log_metric("recall", 0.5 + number / 10)
        run.log_hyperparameter("trees", 10)
    run.log_observation("loss", 0.25)
    run.log_tag("best")
    (tmp_path / "folder" / "empty").mkdir(parents=True)
    (tmp_path / "folder" / "a.txt").write_text("a")
    run.log_artifact("index", str(tmp_path / "folder" / "a.txt"))
    run.log_artifact("model", str(tmp_path / "folder"))
    monkeypatch.setenv("VERTA_LOCAL_STORE", client.store_path)
    return client


def test_the_version_is_that_of_the_package() -> None:
    assert cli("--version").stdout == f"verta-local {verta_local.__version__}\n"


def test_without_a_command_the_help_is_shown_and_the_exit_code_is_2() -> None:
    done = cli()
    assert done.returncode == 2 and "verta-local demo" in done.stdout


def test_the_help_of_every_command_shows_an_example() -> None:
    (group,) = [action for action in make_parser()._actions if hasattr(action, "choices") and action.choices]
    commands: dict[str, Any] = dict(group.choices or {})
    assert set(commands) >= {"demo", "serve", "predict", "ls", "show", "artifacts", "verify"}
    for name, command in commands.items():
        help_text = command.format_help()
        example = help_text.partition("example:\n")[2].strip()
        assert example.startswith(f"verta-local {name}"), name


def test_ls_lists_filters_and_sorts(store: Client) -> None:
    lines = cli("ls").stdout.splitlines()
    assert "second" in lines[1] and "first" in lines[2] and "recall=0.5" in lines[2] and "trees=10" in lines[2]
    assert len(cli("ls", "--where", "metrics.recall > 0.55").stdout.splitlines()) == 2
    assert "second" in cli("ls", "--sort", "metrics.recall", "-n", "1").stdout.splitlines()[1]
    found = json.loads(cli("ls", "--json").stdout)
    assert [run["name"] for run in found] == ["second", "first"] and found[1]["metrics"] == {"recall": 0.5}


def test_show_shows_everything_of_a_run_by_name_id_or_its_beginning(store: Client) -> None:
    run = store.expt_runs.find("name == second")[0]
    for word in ("second", run.id, run.id[:6]):
        text = cli("show", word).stdout
        for part in (run.id, "Text search / Baselines", "recall", "trees", "loss", "best", "index", "a.txt", "folder"):
            assert part in text
    found = json.loads(cli("show", "second", "--json").stdout)
    assert found["metrics"] == {"recall": 0.6} and found["observations"]["loss"][0][0] == 0.25


def test_artifacts_are_copied_out_under_their_names(store: Client, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert cli("artifacts", "get", "second", "index", cwd=out).stdout == f"{out}/a.txt\n"
    assert (out / "a.txt").read_text() == "a"
    cli("artifacts", "get", "second", "model", str(out / "named"))
    assert (out / "named" / "empty").is_dir() and (out / "named" / "a.txt").read_text() == "a"
    assert "index" in cli("artifacts", "ls", "second").stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["show", "nobody"], "no run 'nobody'"),
        (["artifacts", "get", "second", "nothing"], "no artifact 'nothing'"),
        (["artifacts", "get", "second"], "which artifact"),
        (["ls", "--where", "nonsense"], "no operator"),
        (["--store", "/nowhere/at/all", "ls"], "no store in"),
        (["predict", "second", "not json"], "not JSON"),
        (["predict", "second", "1"], "not currently deployed"),
        (["serve", "second"], "missing artifact model.pkl"),
        (["query", "DROP TABLE entities"], "give one SELECT"),
        (["query", "SELECT nowhere FROM entities"], "nowhere"),
    ],
)
def test_an_error_is_one_sentence_on_stderr_and_exit_code_1(store: Client, arguments: list[str], expected: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("verta-local: ") and expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_word_for_two_runs_is_refused_with_both(store: Client) -> None:
    store.set_experiment("Other")
    store.set_experiment_run("first")
    done = cli("show", "first")
    assert done.returncode == 1 and "more than one run" in done.stderr


def test_what_was_logged_cannot_steer_the_terminal(store: Client) -> None:
    store.set_experiment_run("evil \x1b]0;title\x07 \x1b[2J").log_attribute("a", "\x1b[31m")
    for arguments in (["ls"], ["show", "evil \x1b]0;title\x07 \x1b[2J"]):
        done = cli(*arguments)
        assert "evil" in done.stdout and "\x1b" not in done.stdout and "\x07" not in done.stdout


@pytest.mark.parametrize(
    "text", ["\x7f", "\x9b31m", "\u202ex", "\ud800", "\U000e0001", "\x00", "a\nb", "\u00e9\u3042\U0001f600"]
)
def test_json_for_programs_is_the_value_and_cannot_steer_the_terminal(text: str, capsys: Any) -> None:
    print_json({text: [text, 1.5, None]}, indent=None)
    shown = capsys.readouterr().out
    assert json.loads(shown) == {text: [text, 1.5, None]}
    assert all(letter.isprintable() for letter in shown.rstrip("\n"))
    assert text in shown or not text.isprintable()


def test_verify_tells_a_sound_store_from_a_damaged_one(store: Client) -> None:
    assert cli("verify", "--deep").returncode == 0
    (blob,) = [path for path in Path(store.store_path, "objects").rglob("*") if path.is_file()]
    blob.chmod(0o644)
    blob.write_text("b")
    done = cli("verify", "--deep")
    assert done.returncode == 1 and "second" in done.stdout and "'index'" in done.stdout and blob.name in done.stdout
    assert json.loads(cli("verify", "--deep", "--json").stdout)["is_clean"] is False


def test_query_selects_and_changes_nothing(store: Client) -> None:
    found = json.loads(cli("query", "SELECT name FROM entities WHERE kind = 'run' ORDER BY name", "--json").stdout)
    assert found == [{"name": "first"}, {"name": "second"}]
    cli("query", "DELETE FROM entities")
    assert len(cli("ls").stdout.splitlines()) == 3


def test_init_makes_a_store_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "made a store" in cli("init", cwd=tmp_path).stdout
    assert "already" in cli("init", cwd=tmp_path).stdout
    assert cli("ls", cwd=tmp_path).stdout == f"no runs in {tmp_path}/.verta_local\n"


def test_a_reader_that_goes_away_is_no_error(store: Client) -> None:
    command = f"{sys.executable} -m verta_local ls -n 0 | head -1 > /dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout == "0\n" and done.stderr == ""
