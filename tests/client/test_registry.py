"""Registered models and their versions: models with what they need, labels, stages and locks."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from verta_local import Client
from verta_local.code import Git, Notebook
from verta_local.dataset import Path as Files
from verta_local.environment import Python
from verta_local.registry import DockerImage, VertaModelBase, data_type, lock, stage_change, task_type, verify_io
from verta_local.registry.entities import RegisteredModel
from verta_store import fsck, gc


class Scaler(VertaModelBase):
    def __init__(self, artifacts: dict[str, str]) -> None:
        self.factor = int(Path(artifacts["factor"]).read_text())

    @verify_io
    def predict(self, input: Any) -> Any:
        return input * self.factor


class Plain:
    def __init__(self, artifacts: dict[str, str] | None = None) -> None:
        pass

    def predict(self, data: Any) -> Any:
        return data


@pytest.fixture
def model(client: Client) -> RegisteredModel:
    return client.set_registered_model("search", desc="finds", labels=["nlp"])


@pytest.fixture
def factor(tmp_path: Path) -> str:
    path = tmp_path / "factor.txt"
    path.write_text("3")
    return str(path)


# -- models ------------------------------------------------------------------------------------------------------------


def test_the_same_name_is_the_same_model(client: Client, model: RegisteredModel) -> None:
    assert (model.name, model.get_description(), model.get_labels()) == ("search", "finds", ["nlp"])
    assert client.get_or_create_registered_model("search") == client.set_registered_model(id=model.id) == model
    assert client.get_registered_model("search") == client.get_registered_model(id=model.id) == model
    with pytest.warns(UserWarning, match="already exists; cannot set desc, labels"):
        client.set_registered_model("search", desc="x", labels=["y"])
    assert model.get_labels() == ["nlp"]
    assert list(client.registered_models) == [model]
    assert model.id in repr(model)


def test_create_wants_a_new_name_and_get_one_that_is_there(client: Client, model: RegisteredModel) -> None:
    with pytest.raises(ValueError, match=r"409.*already exists"):
        client.create_registered_model("search")
    with pytest.raises(OSError):
        client.create_registered_model("search")
    for arguments in ({}, {"name": "absent"}, {"id": "absent"}, {"name": "search", "id": model.id}):
        with pytest.raises(ValueError):
            client.get_registered_model(**arguments)
    assert client.create_registered_model().name != client.create_registered_model().name
    with pytest.raises(TypeError):
        client.create_registered_model("bad", labels=[1])
    assert not list(client.registered_models.find("name == bad"))


def test_a_config_file_names_the_default_dataset_and_model_and_a_workspace_keeps_names_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("verta_config.json").write_text('{"dataset": "d", "registered_model": "m"}')
    client = Client(str(tmp_path / "store"))
    assert (client.set_dataset().name, client.set_registered_model().name) == ("d", "m")
    assert (client.get_dataset().name, client.get_registered_model().name) == ("d", "m")
    other = client.create_registered_model("m", workspace="team")
    assert other != client.get_registered_model("m")
    assert (other.workspace, client.get_registered_model("m", workspace="team")) == ("team", other)


def test_labels_are_added_and_taken_off(model: RegisteredModel) -> None:
    for entity in (model, model.create_version(labels=["nlp"])):
        entity.add_label("a")
        entity.add_labels(["b", "a"])
        assert entity.get_labels() == ["nlp", "a", "b"]
        entity.del_label("a")
        entity.del_label("absent")
        assert entity.get_labels() == ["nlp", "b"]
        for verb in (entity.add_label, entity.add_labels, entity.del_label):
            with pytest.raises(ValueError):
                verb(None)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            entity.add_label(1)  # type: ignore[arg-type]


def test_what_a_model_is_for_is_said_in_words_of_the_registry(client: Client) -> None:
    model = client.create_registered_model(task_type=task_type.Regression(), data_type=data_type.Tabular(), pii=True)
    assert (model.get_task_type(), model.get_data_type(), model.get_pii()) == (
        task_type.Regression(),
        data_type.Tabular(),
        True,
    )
    model.set_task_type(task_type.Translation())
    model.set_data_type(data_type.Text())
    model.set_pii(False)
    assert (model.get_task_type(), model.get_data_type()) == (task_type.Translation(), data_type.Text())
    assert not model.get_pii()
    plain = client.create_registered_model()
    assert (plain.get_task_type(), plain.get_data_type()) == (task_type.Unknown(), data_type.Unknown())
    with pytest.raises(TypeError):
        model.set_task_type("regression")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        client.create_registered_model("bad", data_type=task_type.Regression())


def test_a_deleted_model_takes_its_versions_along(client: Client, model: RegisteredModel) -> None:
    version = model.create_version()
    model.delete()
    assert len(client.registered_models) == len(client.registered_model_versions) == 0
    with pytest.raises(ValueError):
        client.get_registered_model_version(version.id)
    assert client.set_registered_model("search") != model


# -- versions ----------------------------------------------------------------------------------------------------------


def test_versions_have_names_and_belong_to_one_model(client: Client, model: RegisteredModel) -> None:
    version = model.create_version("v1", desc="d", labels=["l"], attrs={"a": {"b": [1]}}, time_created=5)
    assert (version.name, version.get_description(), version.get_labels()) == ("v1", "d", ["l"])
    assert version.get_attributes() == {"a": {"b": [1]}}
    assert version.get_date_created() == 5
    assert version.registered_model_id == model.id
    assert model.get_version("v1") == model.get_version(id=version.id) == model.get_or_create_version("v1") == version
    assert client.get_registered_model_version(version.id) == model.set_version(id=version.id) == version
    assert list(model.versions) == list(client.registered_model_versions) == [version]
    with pytest.raises(ValueError, match="already exists"):
        model.create_version("v1")
    with pytest.warns(UserWarning, match="cannot set attrs, lock_level"):
        model.get_or_create_version("v1", attrs={"a": 1}, lock_level=lock.Closed())
    other = client.create_registered_model()
    with pytest.raises(ValueError, match="another model"):
        other.get_version(id=version.id)
    assert other.create_version("v1") != version
    for arguments in ({}, {"name": "v2"}, {"name": "v1", "id": version.id}):
        with pytest.raises(ValueError):
            model.get_version(**arguments)
    version.rename("first")
    assert model.get_version("first") == version


def test_attributes_of_a_version(model: RegisteredModel) -> None:
    version = model.create_version()
    version.log_attribute("a", [1, {"b": None}])
    version.log_attributes({"c": 1.0, "d": "x"})
    with pytest.raises(ValueError, match=f"registered model version {version.id}; consider setting overwrite"):
        version.log_attribute("a", 2)
    version.log_attribute("a", 2, overwrite=True)
    assert version.get_attributes() == {"a": 2, "c": 1.0, "d": "x"}
    version.del_attribute("c")
    with pytest.raises(KeyError, match="registered model version"):
        version.get_attribute("c")
    with pytest.raises(KeyError):
        version.del_attribute("c")


def test_artifacts_of_a_version(model: RegisteredModel, factor: str, tmp_path: Path) -> None:
    version = model.create_version()
    version.log_artifact("factor", factor)
    version.log_artifact("object", {"a": 1})
    assert version.get_artifact_keys() == ["factor", "object"]
    assert version.get_artifact("factor").read() == b"3"
    assert version.get_artifact("object") == {"a": 1}
    with pytest.raises(ValueError, match="overwrite=True"):
        version.log_artifact("factor", factor)
    version.log_artifact("factor", [1], overwrite=True)
    assert version.get_artifact("factor") == [1]
    version.del_artifact("object")
    with pytest.raises(KeyError):
        version.get_artifact("object")
    with pytest.raises(KeyError):
        version.del_artifact("object")
    version.log_artifact("object", 2)
    path = version.download_artifact("object", str(tmp_path / "new" / "o.pkl"))
    assert os.path.isfile(path)
    assert version.fetch_artifacts(["object"])["object"].endswith("object.pkl")
    with pytest.raises(ValueError, match="different key"):
        version.log_artifact("custom_modules", factor)


@pytest.mark.parametrize("verb", ["log_artifact", "get_artifact", "del_artifact", "download_artifact"])
def test_the_key_of_the_model_is_reserved(model: RegisteredModel, verb: str) -> None:
    arguments = {"log_artifact": ["x"], "download_artifact": ["x"]}.get(verb, [])
    with pytest.raises(ValueError, match='"model" is reserved'):
        getattr(model.create_version(), verb)("model", *arguments)


def test_a_model_is_logged_read_replaced_and_taken_out(model: RegisteredModel, factor: str, tmp_path: Path) -> None:
    version = model.create_version()
    assert not version.has_model
    with pytest.raises(KeyError):
        version.get_model()
    with pytest.raises(KeyError):
        version.del_model()
    with pytest.raises(KeyError):
        version.download_model("x")
    version.log_artifact("factor", factor)
    version.log_model(Scaler, artifacts=["factor"])
    assert version.has_model
    assert version.get_model()(artifacts=version.fetch_artifacts(["factor"])).predict(2) == 6
    assert "model.pkl" not in version.get_artifact_keys()
    with pytest.raises(ValueError, match=r"model already exists.*overwrite=True"):
        version.log_model(Plain)
    version.log_model(Plain, overwrite=True)
    assert version.get_model()().predict(2) == 2
    assert os.path.getsize(version.download_model(str(tmp_path / "m.pkl"))) > 0
    version.del_model()
    assert not version.has_model
    assert version.get_artifact_keys() == ["factor"]
    version.log_model(Plain)


def test_an_environment_is_logged_and_taken_out(model: RegisteredModel) -> None:
    version = model.create_version()
    with pytest.raises(RuntimeError):
        version.get_environment()
    with pytest.raises(RuntimeError):
        version.del_environment()
    version.log_environment(Python([]))
    assert version.has_environment and version.get_environment() == Python([])
    with pytest.raises(ValueError, match="overwrite"):
        version.log_environment(Python([]))
    version.del_environment()
    assert not version.has_environment
    version.log_environment(Python([]))


def test_a_version_says_what_data_it_was_made_from(client: Client, model: RegisteredModel, factor: str) -> None:
    data = client.set_dataset("d").create_version(Files(factor))
    version = model.create_version()
    version.log_dataset_version("train", data)
    assert version.get_dataset_versions() == {"train": data}
    version.del_dataset_version("train")
    assert version.get_dataset_versions() == {}


def test_a_version_says_where_its_code_comes_from(client: Client, model: RegisteredModel, tmp_path: Path) -> None:
    version = model.create_version()
    commit = Git("https://me:secret@host/x.git", commit_hash="a" * 40, is_dirty=True, autocapture=False)
    notebook = tmp_path / "train.ipynb"
    notebook.write_text("{}")
    version.log_code_versions({"library": commit, "notebook": Notebook(str(notebook))})
    notebook.unlink()
    gc.collect(client._store, grace_s=0, is_alone=True)
    found = version.get_code_version("library")
    assert found == commit and "secret" not in repr(found)
    kept = version.get_code_versions()["notebook"]
    assert isinstance(kept, Notebook)
    assert (Path(kept.path).name, Path(kept.path).read_text()) == ("train.ipynb", "{}")
    with pytest.raises(ValueError, match="overwrite=True"):
        version.log_code_version("library", commit)
    version.log_code_version("library", commit, overwrite=True)
    version.del_code_version("library")
    with pytest.raises(KeyError):
        version.get_code_version("library")
    with pytest.raises(TypeError):
        version.log_code_version("x", "a" * 40)  # type: ignore[arg-type]


def test_what_was_deleted_says_so(client: Client, model: RegisteredModel, factor: str) -> None:
    version = model.create_version("v1")
    data = client.set_dataset("d").create_version(Files(factor))
    endpoint = client.create_endpoint("p")
    for entity in (version, model, data, client.set_dataset("d"), endpoint):
        entity.delete()
        assert "deleted" in repr(entity)
        with pytest.raises(AttributeError, match="was deleted"):
            entity.get_attributes()
    with pytest.raises(KeyError, match="was deleted"):
        print(version.stage)
    with pytest.raises(KeyError, match="was deleted"):
        print(data.version)


def test_entities_and_lists_can_be_pickled(client: Client, model: RegisteredModel, factor: str) -> None:
    version = model.create_version("v1")
    data = client.set_dataset("d").create_version(Files(factor))
    for entity in (version, model, data, client.create_endpoint("p")):
        assert pickle.loads(pickle.dumps(entity)) == entity
    for entities in (model.versions, client.registered_models.find("name == search"), client.datasets):
        assert list(pickle.loads(pickle.dumps(entities))) == list(entities)


# -- from runs and from classes ----------------------------------------------------------------------------------------


def test_a_version_made_from_a_run_outlives_the_run(client: Client, model: RegisteredModel, factor: str) -> None:
    run = client.set_experiment_run()
    run.log_artifact("factor", factor)
    run.log_model(Scaler, artifacts=["factor"])
    run.log_environment(Python([]))
    run.log_attributes({"a": 1, "b": 2})
    run.log_dataset_version("train", client.set_dataset("d").create_version(Files(factor)))
    version = model.create_version_from_run(run.id, "v", attrs={"b": 3}, labels=["from run"])
    assert model.create_version_from_run(run).experiment_run_id == run.id
    run.delete()
    gc.collect(client._store, grace_s=0, is_alone=True)
    assert version.get_model()(artifacts=version.fetch_artifacts(["factor"])).predict(1) == 3
    assert version.get_environment() == Python([])
    assert {key: version.get_attribute(key) for key in ("a", "b")} == {"a": 1, "b": 3}
    assert list(version.get_dataset_versions()) == ["train"]
    assert version.get_labels() == ["from run"]
    assert list(model.versions.find(f"experiment_run_id == {run.id}", "name == v")) == [version]
    with pytest.raises(ValueError):
        model.create_version_from_run("absent")


def test_a_standard_model_is_complete_at_once(model: RegisteredModel, factor: str) -> None:
    version = model.create_standard_model(
        Scaler, Python([]), artifacts={"factor": factor}, name="v", attrs={"a": 1}, lock_level=lock.Closed()
    )
    assert version.get_model()(artifacts=version.fetch_artifacts(["factor"])).predict(1) == 3
    assert version.has_environment
    assert version.get_attribute("a") == 1
    assert version.get_attribute("__verta_reserved__model_type") == "Standard Verta Model"
    assert "__verta" not in repr(version)
    assert version.lock_level == lock.Closed()


def test_a_standard_model_that_cannot_be_made_leaves_nothing(model: RegisteredModel, tmp_path: Path) -> None:
    for wrong in (Plain, Scaler.predict, object()):
        with pytest.raises(TypeError, match="VertaModelBase"):
            model.create_standard_model(wrong, Python([]))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="environment"):
        model.create_standard_model(Scaler, ["numpy"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="artifacts"):
        model.create_standard_model(Scaler, Python([]), artifacts=["a"])  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        model.create_standard_model(Scaler, Python([]), artifacts={"factor": str(tmp_path / "absent")})
    assert len(model.versions) == 0


@pytest.mark.parametrize("library", ["keras", "sklearn", "torch", "xgboost"])
def test_a_standard_model_of_a_library_is_of_that_library(model: RegisteredModel, library: str) -> None:
    create = getattr(model, f"create_standard_model_from_{library}")
    for wrong in (Plain(), Scaler, object()):
        with pytest.raises(TypeError, match="obj must be"):
            create(wrong, Python([]))
    assert len(model.versions) == 0


def test_a_scikit_learn_model_is_registered(model: RegisteredModel) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    fitted = linear.LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    version = model.create_standard_model_from_sklearn(fitted, Python(["scikit-learn"]), name="v", labels=["x"])
    assert version.get_model().predict([[2.0]])[0] == pytest.approx(4.0)
    assert (version.name, version.get_labels()) == ("v", ["x"])


def test_an_external_model_is_only_told_of(model: RegisteredModel) -> None:
    version = model.create_external_model("v", attrs={"where": "elsewhere"})
    assert version.get_attribute("where") == "elsewhere" and not version.has_model


def test_a_container_is_recorded(client: Client, model: RegisteredModel) -> None:
    image = DockerImage(5000, "predict", "/health", "registry.example/search", tag="v1", env_vars={"A": "b"})
    version = model.create_containerized_model(image, "v1", lock_level=lock.Closed())
    assert version.get_docker() == image
    assert (image.port, image.request_path, image.env_vars) == (5000, "/predict", {"A": "b"})
    assert version.get_environment() == image.environment
    assert version.lock_level == lock.Closed()
    with pytest.raises(RuntimeError, match="unable to deploy"):
        client.create_endpoint("p").update(version)
    plain = model.create_version()
    with pytest.raises(KeyError):
        plain.get_docker()
    plain.log_docker(image)
    with pytest.raises(ValueError, match="overwrite=True"):
        plain.log_docker(image)
    plain.log_docker(DockerImage(1, "/a", "/b", "x", sha="a" * 64), overwrite=True)
    assert plain.get_docker().port == 1
    for wrong in ((lambda: plain.log_docker("x")), (lambda: DockerImage("1", "/a", "/b", "x", "v1"))):  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError):
        DockerImage(70000, "/a", "/b", "x", "v1")


def test_what_has_no_json_form_is_refused_where_it_is_tried(factor: str) -> None:
    scaler = Scaler({"factor": factor})
    assert scaler.predict([1]) == [1, 1, 1]
    with pytest.raises(TypeError, match="the input of predict"):
        scaler.predict({1, 2})

    class Bad(Scaler):
        @verify_io
        def predict(self, input: Any, extra: int = 0) -> Any:
            return object()

    with pytest.raises(TypeError, match="the output of predict"):
        Bad({"factor": factor}).predict(1, extra=2)
    with pytest.raises(TypeError, match="abstract"):
        VertaModelBase({})  # type: ignore[abstract]


# -- stages and locks --------------------------------------------------------------------------------------------------


def test_stages_change_with_a_comment(client: Client, model: RegisteredModel) -> None:
    version = model.create_version()
    assert version.stage == "unassigned"
    assert version.change_stage(stage_change.Development("begun")) == "development"
    assert version.change_stage(stage_change.Production()) == version.stage == "production"
    history = [(change["stage"], change["comment"]) for change in version.get_stage_history()]
    assert history == [("development", "begun"), ("production", None)]
    assert list(client.registered_model_versions.find("stage == production")) == [version]
    assert not list(model.versions.find("stage == staging"))
    version.archive()
    assert version.is_archived and version.stage == "archived"
    with pytest.raises(RuntimeError, match="already been archived"):
        version.archive()
    for wrong in ("staging", stage_change.Staging, None, stage_change.StageChange()):
        with pytest.raises(TypeError):
            version.change_stage(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        stage_change.Staging(comment=1)  # type: ignore[arg-type]


def test_locks_keep_a_version_as_it_is(model: RegisteredModel) -> None:
    version = model.create_version(attrs={"a": 1, "b": 2}, labels=["l"], lock_level=lock.Redact())
    assert version.get_lock_level() == version.lock_level == lock.Redact()
    version.del_attribute("a")
    with pytest.raises(OSError, match="403"):
        version.log_attribute("c", 1)
    version.set_lock_level(lock.Closed())
    for change in (
        lambda: version.del_attribute("b"),
        lambda: version.log_artifact("x", 1),
        lambda: version.add_label("m"),
        lambda: version.log_model(Plain),
        version.delete,
    ):
        with pytest.raises(PermissionError, match="locked"):
            change()
    version.change_stage(stage_change.Staging())
    version.set_lock_level(lock.Open())
    version.log_attribute("c", 1)
    assert version.get_attributes() == {"b": 2, "c": 1}
    assert model.create_version().lock_level == lock.Open()
    for wrong in ("open", None, 1):
        with pytest.raises(TypeError):
            version.set_lock_level(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        model.create_version("bad", lock_level="closed")
    assert not list(model.versions.find("name == bad"))


def test_a_locked_version_raises_what_catches_a_refusal_of_a_server(model: RegisteredModel) -> None:
    requests = pytest.importorskip("requests")
    version = model.create_version(lock_level=lock.Closed())
    with pytest.raises(requests.HTTPError, match="403") as refused:
        version.add_label("x")
    assert refused.value.response.status_code == 403
    assert isinstance(pickle.loads(pickle.dumps(refused.value)), PermissionError)


def test_every_verb_that_changes_a_version_minds_its_lock(model: RegisteredModel) -> None:
    version = model.create_version(lock_level=lock.Closed())
    changing = ("add_", "log_", "set_", "del_", "rename", "delete")
    verbs = [name for name in dir(version) if name.startswith(changing) and name != "set_lock_level"]
    assert len(verbs) > 20
    for name in verbs:
        with pytest.raises(PermissionError):
            getattr(version, name)()


def test_inputs_and_answers_are_described(model: RegisteredModel) -> None:
    version = model.create_version()
    assert version.get_input_description() == version.get_output_description() == ""
    version.set_input_description("a text")
    version.set_output_description("ten ids")
    assert (version.get_input_description(), version.get_output_description()) == ("a text", "ten ids")


def test_versions_are_found_across_models(client: Client, model: RegisteredModel) -> None:
    first = model.create_version("v1", labels=["good"], attrs={"recall": 0.5})
    second = client.create_registered_model("other").create_version("v1", attrs={"recall": 0.9})
    every = client.registered_model_versions
    assert list(every.find("attributes.recall > 0.8")) == [second]
    assert list(every.find("labels == good")) == [first]
    assert list(every.find(f"registered_model_id == {model.id}")) == [first]
    assert set(every.find("version == v1")) == {first, second}
    assert every.sort("attributes.recall", descending=True)[0] == second
    assert list(client.registered_models.find("labels == nlp", "description ~= find")) == [model]
    with pytest.raises(ValueError):
        every.find("metrics == 1")
    with pytest.raises(TypeError):
        every.find(3)  # type: ignore[arg-type]


def test_damage_names_the_version(client: Client, model: RegisteredModel, factor: str) -> None:
    version = model.create_version("v1")
    version.log_artifact("factor", factor)
    digest = client._store.values(version.id, "artifacts")["factor"]["digest"]
    os.unlink(client._store.object_path(digest))
    (problem,) = fsck.verify(client._store).problems
    assert problem.affects == (f"registered model version 'v1' ({version.id}) key 'factor'",)
