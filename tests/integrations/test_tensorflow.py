"""TensorBoard's event files and the session hook, with real writers."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from verta_local import Client
from verta_local.integrations.event_files import scalars_of
from verta_local.integrations.tensorflow import log_tensorboard_events


def record(data: bytes) -> bytes:
    """A TFRecord, as the format says it."""
    from verta_local.integrations.event_files import _masked_crc32c

    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", _masked_crc32c(head)) + data + struct.pack("<I", _masked_crc32c(data))


def event(tag: str, value: float, step: int, wall_time_s: float = 1_700_000_000.5) -> bytes:
    """An event with one scalar, as TensorFlow 1 and PyTorch write it."""
    name = tag.encode()
    point = b"\x0a" + bytes([len(name)]) + name + b"\x15" + struct.pack("<f", value)
    summary = b"\x0a" + bytes([len(point)]) + point
    return (
        b"\x09" + struct.pack("<d", wall_time_s) + b"\x10" + bytes([step]) + b"\x2a" + bytes([len(summary)]) + summary
    )


def test_event_files_are_read_without_any_library(client: Client, tmp_path: Path) -> None:
    """A series is named by its sub-folder and tag; times and steps are those of the events."""
    folder = tmp_path / "logs" / "train"
    folder.mkdir(parents=True)
    events = [event("loss", 0.5, 1), event("loss", 0.25, 2), event("top 5", 1.0, 2)]
    (folder / "events.out.tfevents.1.host").write_bytes(b"".join(map(record, events)))
    run = client.set_experiment_run()
    assert log_tensorboard_events(run, tmp_path / "logs") == 3
    assert [(value, epoch) for value, _, epoch in run.get_observation("train/loss")] == [(0.5, 1), (0.25, 2)]
    assert run.get_observation("train/loss")[0][1].startswith("2023-11-1")
    assert set(run.get_observations()) == {"train/loss", "train/top_5"}


@pytest.mark.parametrize("cut", [1, 5, 12, 20])
def test_a_torn_end_is_where_a_file_ends(tmp_path: Path, cut: int) -> None:
    """As of a training that was killed."""
    file = tmp_path / "events.out.tfevents.1"
    whole = record(event("a", 1.0, 1)) + record(event("a", 2.0, 2))
    file.write_bytes(whole[:-cut])
    assert [point.value for point in scalars_of(file)] == [1.0]


def test_no_flipped_byte_makes_a_wrong_number(tmp_path: Path) -> None:
    """Both checksums are looked at."""
    file = tmp_path / "events.out.tfevents.1"
    whole = record(event("a", 1.0, 1))
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        assert list(scalars_of(file)) == []


def test_a_folder_without_events_is_said(client: Client, tmp_path: Path) -> None:
    run = client.set_experiment_run()
    with pytest.raises(FileNotFoundError, match="no TensorBoard event files"):
        log_tensorboard_events(run, tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        log_tensorboard_events(run, tmp_path / "none")


def test_what_tensorflow_2_and_keras_write(client: Client, tmp_path: Path) -> None:
    """Scalars are tensors there; histograms and images are passed over."""
    tensorflow = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorboard")
    with tensorflow.summary.create_file_writer(str(tmp_path / "events")).as_default():
        for step in range(3):
            tensorflow.summary.scalar("loss", 1.0 / (step + 1), step=step)
            tensorflow.summary.histogram("weights", [1.0, 2.0], step=step)
        tensorflow.summary.image("picture", tensorflow.zeros([1, 4, 4, 3]), step=0)
    run = client.set_experiment_run()
    log_tensorboard_events(run, tmp_path / "events")
    assert set(run.get_observations()) == {"loss"}
    assert [(value, epoch) for value, _, epoch in run.get_observation("loss")] == [
        (1.0, 0), (0.5, 1), (pytest.approx(1 / 3), 2),
    ]  # fmt: skip


def test_what_torch_writes(client: Client, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(3):
            writer.add_scalar("train/loss", 0.5 * step, step)
    run = client.set_experiment_run()
    assert log_tensorboard_events(run, tmp_path) == 3
    assert [value for value, _, _ in run.get_observation("train/loss")] == [0.0, 0.5, 1.0]


def test_the_session_hook_logs_losses_and_summaries(client: Client) -> None:
    """Every so many steps, with the global step as epoch."""
    tensorflow = pytest.importorskip("tensorflow")
    from verta_local.integrations.tensorflow import VertaHook

    v1 = tensorflow.compat.v1
    run = client.set_experiment_run()
    with tensorflow.Graph().as_default():
        step = v1.train.get_or_create_global_step()
        weight = v1.get_variable("weight", initializer=4.0)
        loss = tensorflow.square(weight, name="my_loss")
        v1.losses.add_loss(loss)
        v1.summary.scalar("weight_now", weight)
        train = v1.train.GradientDescentOptimizer(0.25).minimize(loss, global_step=step)
        with v1.train.MonitoredTrainingSession(hooks=[VertaHook(run, every_n_steps=2)]) as session:
            for _ in range(5):
                session.run(train)
    assert set(run.get_observations()) == {"my_loss", "weight_now"}
    points = run.get_observation("my_loss")
    assert [epoch for _, _, epoch in points][-1] >= 4 and len(points) == 3
    assert [value for value, _, _ in points] == sorted((value for value, _, _ in points), reverse=True)
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match="a whole number above zero"):
            VertaHook(run, every_n_steps=wrong)


def test_the_module_has_no_other_names() -> None:
    import verta_local.integrations.tensorflow as module

    with pytest.raises(AttributeError, match="has no attribute 'VertaHooks'"):
        _: Any = module.VertaHooks
