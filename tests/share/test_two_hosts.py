"""Two hosts on a bad network drive: nothing lost, nothing double, one view, and soon."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hosts import SHARE, HostError, on_the_shim_only

Hosts = tuple[Any, Any]

RUNS = 20
POINTS = 300
# Within a millisecond two hosts' records have no order but that of their writers' ids, and machines' clocks differ.
APART_S = 0.2 if SHARE else 0.01


def both(hosts: Hosts, statements: str) -> None:
    """Lets two hosts do the same at the same time."""
    for host in hosts:
        host.start(do=statements)
    for host in hosts:
        host.wait()


def let_go(hosts: Hosts) -> None:
    """SMB keeps open for a second what was open a moment ago, and then neither moves nor removes it."""
    if SHARE:
        both(hosts, "time.sleep(1.2)")


def one_view(hosts: Hosts) -> dict[str, Any]:
    """What both hosts see, equal on both, once what the other did a moment ago has come."""
    both(hosts, "client.flush()")
    both(hosts, "look()")
    first, second = (host.tell("view()") for host in hosts)
    assert first == second
    return first


def test_a_store_made_by_six_hosts_at_once_is_one_store(new_host: Callable[..., Any], drive: Path) -> None:
    started = [new_host(f"host{number}") for number in range(6)]
    for host in started:
        host.start(do=f"from verta_local import Client; client = Client({str(drive / 'store')!r})")
    for host in started:
        host.wait()
    assert len({host.tell("client._store.id") for host in started}) == 1
    assert sum(host.tell("client._store.was_created") for host in started) == 1


def test_runs_of_two_hosts_are_all_there_once_and_the_same_everywhere(hosts: Hosts) -> None:
    both(
        hosts,
        f"""
for number in range({RUNS}):
    run = begin(f"{{os.environ['VERTA_LOCAL_HOST']}} {{number}}")
    run.log_hyperparameters({{"number": number, "rate": number / 7}})
    run.log_metric("recall", number / {RUNS})
    run.log_tags(["shared", os.environ["VERTA_LOCAL_HOST"]])
    for step in range(5):
        run.log_observation("loss", 1 / (1 + step), timestamp=1000 + step)
""",
    )
    found = one_view(hosts)
    assert len(found) == 2 * RUNS
    assert sorted(run[0] for run in found.values()) == sorted(f"{h.name} {n}" for h in hosts for n in range(RUNS))
    for name, metrics, parameters, _, tags, observations, _, author in found.values():
        host, number = name.split(" ")
        assert metrics == {"recall": int(number) / RUNS}
        assert parameters == {"number": int(number), "rate": int(number) / 7}
        assert tags == ["shared", host] and author == f"user-of-{host} on {host}"
        assert [value for value, *_ in observations["loss"]] == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]


def test_two_hosts_log_to_one_run_and_nothing_is_lost(hosts: Hosts) -> None:
    both(
        hosts,
        f"""
run = begin("the one")
me = os.environ["VERTA_LOCAL_HOST"]
for number in range({POINTS}):
    run.log_observation("loss", number, timestamp=number)
    if number % 3 == 0:
        run.log_metric(f"{{me}}-{{number}}", number)
        run.log_tag(f"{{me}}-{{number}}")
""",
    )
    (run,) = one_view(hosts).values()
    assert len(run[1]) == len(run[4]) == 2 * POINTS // 3
    values = [value for value, *_ in run[5]["loss"]]
    assert sorted(values) == sorted([*range(POINTS), *range(POINTS)])


def test_the_same_names_made_on_two_hosts_at_once_are_the_same_entities(hosts: Hosts) -> None:
    both(
        hosts,
        """
made = []
for name in range(30):
    client.set_project(f"project {name % 3}")
    client.set_experiment(f"experiment {name % 5}")
    made.append(client.set_experiment_run(f"run {name}").id)
""",
    )
    first, second = (host.tell("made") for host in hosts)
    assert first == second and len(set(first)) == 30
    one_view(hosts)
    for host in hosts:
        assert host.tell("[len(client.projects), len(client.experiments), len(client.expt_runs)]") == [3, 15, 30]


def test_a_name_that_two_hosts_claim_at_once_is_given_to_one(hosts: Hosts) -> None:
    both(
        hosts,
        """
from verta_store.errors import ClaimTaken
mine, theirs = [], []
for number in range(60):
    try:
        store.claim("version", f"v{number}", {"by": os.environ["VERTA_LOCAL_HOST"]})
        mine.append(number)
    except ClaimTaken as error:
        theirs.append([number, error.claim.host])
""",
    )
    ant, bee = hosts
    assert sorted(ant.tell("mine") + bee.tell("mine")) == list(range(60))
    for host, other in (hosts, hosts[::-1]):
        assert host.tell("theirs") == [[number, other.name] for number in other.tell("mine")]
        assert host.tell("[store.claimed('version', f'v{number}').host for number in mine]") == [
            host.name for _ in host.tell("mine")
        ]


def test_an_entity_deleted_on_one_host_and_made_again_on_the_other_is_a_new_one(hosts: Hosts) -> None:
    ant, bee = hosts
    ant.do("run = begin('again'); run.log_metric('m', 1); run.delete()")
    bee.do("look(); again = begin('again'); again.log_metric('m', 2)")
    assert bee.tell("again.id") != ant.tell("run.id")
    assert [run[1] for run in one_view(hosts).values()] == [{"m": 2}]


def test_another_hosts_new_run_is_found_within_two_seconds(hosts: Hosts) -> None:
    ant, bee = hosts
    bee.do("begin('earlier')")
    waited = []
    for number in range(4):
        bee.tell("len(client.expt_runs)")  # so that this host has just looked, and remembers
        ant.do(f"run = begin('new {number}'); run.log_metric('m', {number})")
        begin = time.monotonic()
        while not bee.tell(f"[run.name for run in client.expt_runs.find('metrics.m == {number}')]"):
            assert time.monotonic() < begin + 5
            time.sleep(0.05)
        waited.append(time.monotonic() - begin)
    assert max(waited) < 2, waited


@on_the_shim_only
def test_on_this_drive_a_host_that_does_not_poke_sees_nothing_new(hosts: Hosts) -> None:
    """That the test above shows something."""
    ant, bee = hosts
    bee.do("from verta_store import drive; drive.Drive.poke = lambda *_, **__: 0.0; begin('earlier')")
    bee.tell("len(client.expt_runs)")
    ant.do("begin('new'); client.flush()")
    time.sleep(2)
    assert bee.tell("[run.name for run in client.expt_runs]") == ["earlier"]
    assert bee.tell("share.counts['stale listing']") > 0


def test_what_a_host_logs_right_after_is_found_too_though_its_journal_is_known(hosts: Hosts) -> None:
    ant, bee = hosts
    ant.do("run = begin('grows')")
    for number in range(3):
        ant.do(f"run.log_metric('m{number}', {number})")
        begin = time.monotonic()
        while f"m{number}" not in bee.tell("begin('grows').get_metrics()"):
            assert time.monotonic() < begin + 2
            time.sleep(0.05)


def test_artifacts_of_two_hosts_are_one_object_and_open_on_both(hosts: Hosts, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "Assets").mkdir(parents=True)
    (source / "Assets" / "Vocabulary.TXT").write_text("words")
    (source / "weights.bin").write_bytes(b"w" * 200_000)
    both(
        hosts,
        f"""
run = begin(os.environ["VERTA_LOCAL_HOST"])
run.log_artifact("folder", {str(source)!r})
run.log_artifact("file", {str(source / "weights.bin")!r})
run.log_artifact("object", {{"a": 1}})
run.log_artifact("own", {{"by": os.environ["VERTA_LOCAL_HOST"]}})
""",
    )
    for host, other in (hosts, hosts[::-1]):
        host.do(f"look(); theirs = begin({other.name!r}); paths = theirs.fetch_artifacts(['folder', 'file'])")
        folder, file = Path(host.tell("paths['folder']")), Path(host.tell("paths['file']"))
        assert (folder / "Assets" / "Vocabulary.TXT").read_text() == "words"
        assert file.name == "weights.bin" and file.read_bytes() == b"w" * 200_000
        host.do("theirs.trust()")  # a pickle of somebody else's is code of theirs
        assert host.tell("[theirs.get_artifact('object'), theirs.get_artifact('own')]") == [
            {"a": 1},
            {"by": other.name},
        ]
    kinds = [
        {key: value["digest"] for key, value in run[6].items() if key != "own"} for run in one_view(hosts).values()
    ]
    assert kinds[0] == kinds[1]
    assert hosts[0].tell("__import__('verta_store.fsck').fsck.verify(store, deep=True).problems") == []


def test_what_another_host_has_just_stored_is_found_where_this_one_believes_nothing_to_be(hosts: Hosts) -> None:
    ant, bee = hosts
    asks = {
        "check": "store.check('blob', digest)",
        "read": "store.read_verified(digest)",
        "path": "store.path_of('blob', digest, 'x')",
    }
    for word, ask in asks.items():
        digest = "sha256:" + hashlib.sha256(word.encode()).hexdigest()
        bee.do(f"digest = {digest!r}")
        with pytest.raises(HostError, match="MissingObject"):
            bee.do(ask)
        bee.do("os.path.exists(store.object_path(digest))")  # remembered now
        ant.do(f"store.put_bytes({word.encode()!r})")
        bee.do(ask)
    assert Path(bee.tell(asks["path"])).read_bytes() == b"path"


def test_what_one_host_collects_while_the_other_names_it_again_is_not_lost(
    hosts: Hosts, new_host: Callable[..., Any], drive: Path, tmp_path: Path
) -> None:
    ant, bee = hosts
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "large").write_bytes(b"l" * 100_000)
    log = f"run.log_artifact('blob', {{'a': 1}}); run.log_artifact('tree', {str(tmp_path / 'folder')!r})"
    cat = new_host("cat")
    cat.do(f"from verta_local import Client; run = Client({str(drive / 'store')!r}).set_experiment_run('old'); {log}")
    digests = cat.tell("[value['digest'] for value in run._store.values(run.id, 'artifacts').values()]")
    bee.do(f"look(); store.check('blob', {digests[0]!r}); store.check('tree', {digests[1]!r})")
    bee.do(f"[os.stat(path) for path in (store.object_path({digests[0]!r}), store.tree_path({digests[1]!r}))]")
    cat.do("run.delete()")
    cat.end()
    let_go(hosts)
    # Where there are links, the folder's large file is an object too.
    stored = len([*drive.glob("store/objects/sha256/*/*"), *drive.glob("store/trees/sha256/*/*.manifest")])
    # The drive's clock is put forward, instead of waiting for days.
    ant.do("from verta_store.gc import Rules, collect; days = 0")
    ant.do("rules = Rules(clock=lambda drive_ns: drive_ns + days * 24 * 3600 * 10**9)")
    ant.do("look(); days = 15; report = collect(store, rules=rules)")
    assert ant.tell("report.trashed.object_count") == stored
    bee.do(f"run = begin('new'); {log}; client.flush()")
    ant.do("look(); days = 17; report = collect(store, rules=rules)")
    for host in hosts:
        host.do("look(); paths = begin('new').fetch_artifacts(['blob', 'tree']); begin('new').trust()")
        assert Path(host.tell("paths['tree']"), "large").read_bytes() == b"l" * 100_000
        assert host.tell("begin('new').get_artifact('blob')") == {"a": 1}
        assert host.tell("__import__('verta_store.fsck').fsck.verify(store, deep=True).problems") == []


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_name_that_is_only_remembered_keeps_nothing_from_getting_it(
    hosts: Hosts, drive: Path, is_folder: bool
) -> None:
    """A host that took its old "yes" for an answer would drop the only copy."""
    ant, bee = hosts
    ours, target = drive / "store" / "tmp" / "ours", drive / "store" / "objects" / "target"
    bee.do("import shutil; from verta_store import files")
    make = "os.mkdir({0!r}); open({0!r} + '/in', 'w').close()" if is_folder else "open({0!r}, 'w').close()"
    for path in (ours, target):
        bee.do(make.format(str(path)))
    let_go(hosts)
    bee.tell(f"os.path.exists({str(target)!r})")
    ant.do("import shutil")
    ant.do(f"shutil.rmtree({str(target)!r})" if is_folder else f"os.unlink({str(target)!r})")
    assert bee.tell(f"os.path.exists({str(target)!r})")  # as far as this host knows
    assert bee.tell(f"files.publish({str(ours)!r}, {str(target)!r})")
    assert target.exists() and not ours.exists()


def test_a_plain_value_of_two_hosts_is_the_first_and_the_other_host_is_told_once(hosts: Hosts, drive: Path) -> None:
    ant, bee = hosts
    both(hosts, "run = begin('contested')")
    ant.do("run.log_metric('accuracy', 0.75)")
    time.sleep(APART_S)
    bee.do("run.log_metric('accuracy', 0.5)\nrun.log_metric('same', 1)")  # it has not looked since
    ant.do("run.log_metric('same', 1)\nclient.flush()")
    bee.do("client.flush()")
    for number in range(3):
        both(hosts, "look()")
        assert [host.tell("run.get_metric('accuracy')") for host in hosts] == [0.75, 0.75]
        ant.do(f"run.log_metric('news {number}'.replace(' ', '-'), 0); client.flush()")
    assert [one for one in ant.warnings if one[0] == "ConflictWarning"] == []
    (told,) = [one for one in bee.warnings if one[0] == "ConflictWarning"]
    assert (
        "metric 'accuracy' of run 'contested': your value 0.5 lost to 0.75, which user-of-ant on ant logged" in told[1]
    )
    assert told[2] == "<string>"  # the user's own line
    (conflict,) = ant.tell("[one._asdict() for one in store.conflicts()]")
    assert (conflict["value"], conflict["user"], conflict["host"]) == (0.5, "user-of-bee", "bee")
    assert (conflict["winner_value"], conflict["winner_user"], conflict["winner_host"]) == (0.75, "user-of-ant", "ant")
    command = [sys.executable, "-m", "verta_local", "--store", str(drive / "store"), "conflicts"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "metrics.accuracy" in shown and "user-of-bee on bee" in shown and "0.75 by user-of-ant on ant" in shown
    listed = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert [(one["key"], one["value"], one["winner_value"]) for one in listed] == [("accuracy", 0.5, 0.75)]


def test_the_last_overwrite_counts_and_a_known_value_that_was_replaced_is_no_conflict(hosts: Hosts) -> None:
    ant, bee = hosts
    both(hosts, "run = begin('contested')")
    ant.do("run.log_metric('accuracy', 0.75); client.flush()")
    bee.do("look(); run.get_metrics(); run.log_metric('accuracy', 0.5, overwrite=True); client.flush()")
    both(hosts, "look()")
    assert [host.tell("run.get_metric('accuracy')") for host in hosts] == [0.5, 0.5]
    assert not ant.tell("store.conflicts()") and not ant.warnings
    ant.do("run.log_metric('accuracy', 1, overwrite=True)")
    time.sleep(APART_S)
    bee.do("run.log_metric('accuracy', 2, overwrite=True); client.flush()")
    both(hosts, "look()")
    assert [host.tell("run.get_metric('accuracy')") for host in hosts] == [2, 2]
    (told,) = [one for one in ant.warnings if one[0] == "ConflictWarning"]
    assert "your value 1 lost to 2" in told[1] and "the last overwrite counts" in told[1] and not bee.warnings


def test_a_key_that_another_host_logged_is_refused_once_it_was_seen(hosts: Hosts) -> None:
    ant, bee = hosts
    both(hosts, "run = begin('contested')")
    ant.do("run.log_metric('m', 1); client.flush()")
    bee.do("look(); run.get_metrics()")
    with pytest.raises(HostError, match="already exists"):
        bee.do("run.log_metric('m', 2)")
    assert not ant.tell("store.conflicts()")


def test_a_journal_that_is_being_read_is_sealed_under_its_open_name(hosts: Hosts, drive: Path) -> None:
    ant, bee = hosts
    ant.do("run = begin('sealed'); run.log_metric('m', 1); client.flush()")
    (path,) = (drive / "store" / "journals").glob("ant-*/*.open.jsonl")
    bee.do(f"reading = open({str(path)!r}, 'rb')")
    begin = time.monotonic()
    ant.end()
    took_s = time.monotonic() - begin
    if path.exists():  # this drive does not rename what is open
        assert 1.5 < took_s < 5
        assert b'"k":"seal"' in path.read_bytes()
    else:
        assert SHARE, "the drive of the tests never does"
    bee.do("look()")
    assert bee.tell("begin('sealed').get_metric('m')") == 1
    assert (
        bee.tell("[j for j in store.select('SELECT stem, is_sealed FROM journals') if j[0].startswith('ant')][0][1]")
        == 1
    )
    assert bee.tell("__import__('verta_store.fsck').fsck.verify(store, deep=True).problems") == []


def test_a_reader_who_lets_go_in_time_does_not_keep_a_journal_from_its_name(hosts: Hosts, drive: Path) -> None:
    ant, bee = hosts
    ant.do("run = begin('sealed'); run.log_metric('m', 1); client.flush()")
    (path,) = (drive / "store" / "journals").glob("ant-*/*.open.jsonl")
    bee.do(f"reading = open({str(path)!r}, 'rb')")
    bee.start(do="time.sleep(0.5); reading.close()")
    ant.end()
    bee.wait()
    assert not path.exists() and path.with_name(path.name.replace(".open", "")).exists()


def test_what_a_killed_host_had_synced_is_there_and_its_journal_is_read_like_any_other(hosts: Hosts) -> None:
    ant, bee = hosts
    ant.do("run = begin('killed'); run.log_metric('m', 1); client.flush(); run.log_metric('unsynced', 2)")
    ant.kill()
    bee.do("look()")
    assert bee.tell("begin('killed').get_metrics()")["m"] == 1
    assert bee.tell("__import__('verta_store.fsck').fsck.verify(store, deep=True).problems") == []


def test_each_host_has_its_own_index_and_makes_it_anew_equal(hosts: Hosts, own: Path, drive: Path) -> None:
    both(hosts, "run = begin(os.environ['VERTA_LOCAL_HOST']); run.log_metrics({'a': 1, 'b': 2.5})")
    before = one_view(hosts)
    for host in hosts:
        index = Path(host.tell("str(store.index_state().path)"))
        assert own / f"cache-{host.name}" in index.parents and index.name == "index.sqlite"
        host.do(f"store.close(); os.unlink({str(index)!r})")
    assert one_view(hosts) == before
    assert not [path for path in drive.rglob("*") if "sqlite" in path.name]


def test_an_index_is_never_kept_on_a_network_drive(new_host: Callable[..., Any], drive: Path, own: Path) -> None:
    temporary = own / "temporary"
    environment = {"VERTA_LOCAL_CACHE": str(drive / "home" / "cache"), "TMPDIR": str(temporary)}
    host = new_host("ant", environment=environment)
    host.do(f"os.makedirs({str(temporary)!r})")
    host.do(f"from verta_local import Client; client = Client({str(drive / 'store')!r})")
    host.do("run = client.set_experiment_run(); run.log_metric('m', 1)")
    assert host.tell("[run.get_metric('m'), client._store.index_state().journal_count]") == [1, 1]
    path = Path(host.tell("client._store.index_state().path"))
    assert temporary in path.parents and host.tell(f"os.path.exists({str(path)!r})")
    private = temporary / path.relative_to(temporary).parts[0]
    assert private.name.startswith("verta_local-")
    assert host.tell(f"oct(os.stat({str(private)!r}).st_mode)") == "0o40700"
    assert "an index is not safe" in "".join(host.tell("client._store.notes"))
    assert not (drive / "home").exists()


def test_a_folder_for_temporary_files_of_somebody_else_is_not_used(
    new_host: Callable[..., Any], drive: Path, own: Path
) -> None:
    temporary = own / "temporary"
    environment = {"VERTA_LOCAL_CACHE": str(drive / "cache"), "TMPDIR": str(temporary)}
    host = new_host("ant", environment=environment)
    host.do("os.umask(0)")
    host.do(f"anybodys = os.path.join({str(temporary)!r}, f'verta_local-{{os.getuid()}}'); os.makedirs(anybodys)")
    host.do(f"from verta_local import Client; client = Client({str(drive / 'store')!r})")
    host.do("run = client.set_experiment_run(); run.log_metric('m', 1)")
    assert host.tell("[run.get_metric('m'), client._store.index_state().path]") == [1, ":memory:"]
    assert not [name for *_, names in host.tell(f"list(os.walk({str(temporary)!r}))") for name in names]
