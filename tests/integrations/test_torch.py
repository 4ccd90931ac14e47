"""The hook of PyTorch, the logger of Lightning and the callback of Transformers, with real trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from verta_local import Client

torch = pytest.importorskip("torch")


def test_a_forward_hook_logs_the_layers_once(client: Client) -> None:
    """Those inside a Sequential too."""
    from verta_local.integrations.torch import verta_hook

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Dropout(0.25))
            self.head = torch.nn.Linear(4, 1)

        def forward(self, x: Any) -> Any:
            return self.head(self.body(x))

    run = client.set_experiment_run()
    net = Net()
    net.register_forward_hook(verta_hook(run))
    before = net(torch.zeros(2, 3)).shape
    assert run.get_hyperparameters() == {
        "layer_0_name": "Linear", "layer_0_size": 4, "layer_1_name": "ReLU",
        "layer_2_name": "Dropout", "layer_2_dropoutrate": 0.25, "layer_3_name": "Linear", "layer_3_size": 1,
    }  # fmt: skip
    updated = run.get_date_updated()
    assert net(torch.zeros(2, 3)).shape == before and run.get_date_updated() == updated


def test_lightning_logs_hyperparameters_and_steps(client: Client, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    from verta_local.integrations.lightning import VertaLogger

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, rate: float = 0.1, sizes: Any = None) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: Any, index: int) -> Any:
            rows, values = batch
            loss = torch.nn.functional.mse_loss(self.layer(rows), values)
            self.log("train/loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), self.hparams.rate)

    rows = torch.linspace(0, 1, 16).reshape(-1, 1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, 2 * rows), batch_size=4)
    run = client.set_experiment_run("lightning")
    logger = VertaLogger(run)
    trainer = lightning.Trainer(
        logger=logger, max_epochs=2, log_every_n_steps=2, accelerator="cpu", enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, default_root_dir=str(tmp_path),
    )  # fmt: skip
    trainer.fit(Module(rate=0.05, sizes={"hidden": 3}), loader)
    found = run.get_hyperparameters()
    assert found["rate"] == 0.05 and found["sizes/hidden"] == 3
    assert set(run.get_observations()) == {"train/loss"}
    assert [epoch for _, _, epoch in run.get_observation("train/loss")] == [1, 3, 5, 7]
    assert (logger.name, logger.version, logger.experiment) == ("lightning", run.id, run)


def test_a_transformers_training_is_logged(client: Client, tmp_path: Path) -> None:
    """A tiny model made here: nothing is downloaded."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from verta_local.integrations.transformers import VertaCallback

    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = transformers.BertForSequenceClassification(config)
    rows = [{"input_ids": [1, 2, 3 + index % 5], "labels": index % 2} for index in range(16)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), num_train_epochs=2, per_device_train_batch_size=4, logging_steps=2,
        report_to=[], use_cpu=True, save_strategy="no", eval_strategy="epoch", disable_tqdm=True,
    )  # fmt: skip
    run = client.set_experiment_run()
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, eval_dataset=rows, callbacks=[VertaCallback(run)]
    )
    trainer.train()
    found = run.get_hyperparameters()
    assert found["num_train_epochs"] == 2 and found["model_type"] == "bert"
    assert found["model_parameters"] == sum(each.numel() for each in model.parameters())
    assert not any("dir" in name or "token" in name for name in found) and str(tmp_path) not in str(found)
    assert [epoch for _, _, epoch in run.get_observation("loss")] == [2, 4, 6, 8]
    assert [epoch for _, _, epoch in run.get_observation("eval_loss")] == [4, 8]
    assert run.get_metric("train_runtime") > 0 and run.get_metric("train_loss") > 0


def test_what_torch_has_saved_comes_back_from_get_artifact(client: Client, tmp_path: Path) -> None:
    run = client.set_experiment_run()
    weights = {"a": torch.arange(3)}
    torch.save(weights, tmp_path / "weights.pt")
    run.log_artifact("weights", str(tmp_path / "weights.pt"))
    with (tmp_path / "weights.pt").open("rb") as file:
        run.log_artifact("stream", file)
    for key in ("weights", "stream"):
        assert run.get_artifact(key)["a"].tolist() == [0, 1, 2]
