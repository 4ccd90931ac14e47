"""Recognize handwritten digits by their nearest neighbours: scikit-learn's digits and an Annoy index.

    pip install "verta_local[examples]"
    python digits_neighbors.py

Tries several numbers of trees, logs a run for each, chooses one by what was logged, deploys it as a class
model, and measures its accuracy over HTTP, on digits that were never used before.
"""

import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from annoy import AnnoyIndex
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from verta_local import Client

PIXELS = 64  # 8 x 8, each from 0 to 16
NEIGHBORS = 5


class DigitModel:
    """Answers with the digit that most of the five nearest known images show."""

    def __init__(self, artifacts):
        self.index = AnnoyIndex(PIXELS, "euclidean")
        self.index.load(artifacts["index"])  # mapped into memory, not read
        self.labels = json.loads(Path(artifacts["labels"]).read_text())

    def predict(self, data):
        """`data`: a list of images, each a list of 64 numbers. Returns a digit for each."""
        return [self._vote(image) for image in data]

    def _vote(self, image):
        nearest = self.index.get_nns_by_vector(image, NEIGHBORS)
        return Counter(self.labels[i] for i in nearest).most_common(1)[0][0]


def build_index(images, trees):
    index = AnnoyIndex(PIXELS, "euclidean")
    index.set_seed(1)
    for i, image in enumerate(images):
        index.add_item(i, image)
    index.build(trees)
    return index


def exact_neighbors(images, known):
    """The true nearest neighbours, by computing all distances: what an index is measured against."""
    distances = ((images[:, None, :] - known[None, :, :]) ** 2).sum(axis=2)
    return np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBORS]


def main():
    images, labels = load_digits(return_X_y=True)
    images, test_images, labels, test_labels = train_test_split(
        images, labels, test_size=400, random_state=0, stratify=labels
    )
    known, check_images, known_labels, check_labels = train_test_split(
        images, labels, test_size=400, random_state=0, stratify=labels
    )
    exact = exact_neighbors(check_images, known)
    print(f"{len(known)} known images, {len(check_images)} to choose by, {len(test_images)} to test")

    client = Client()
    client.set_project("Digits")
    experiment = client.set_experiment(f"nearest neighbours {time.time_ns()}")

    with tempfile.TemporaryDirectory() as generated:
        index_file = str(Path(generated, "digits.ann"))
        labels_file = str(Path(generated, "labels.json"))
        Path(labels_file).write_text(json.dumps(known_labels.tolist()))

        print(f"{'trees':>6}{'accuracy':>10}{'recall of the true neighbours':>32}")
        for trees in (1, 2, 5, 10, 20, 50):
            run = client.set_experiment_run(f"trees={trees}")
            run.log_hyperparameters({"trees": trees, "neighbors": NEIGHBORS, "metric": "euclidean"})

            build_index(known, trees).save(index_file)
            run.log_artifact("index", index_file)
            run.log_artifact("labels", labels_file)

            model = DigitModel(artifacts=run.fetch_artifacts(["index", "labels"]))
            found = [model.index.get_nns_by_vector(image, NEIGHBORS) for image in check_images]
            recall = np.mean([len(set(a) & set(b)) / NEIGHBORS for a, b in zip(found, exact, strict=True)])
            accuracy = np.mean(np.array(model.predict(check_images)) == check_labels)
            run.log_metrics({"accuracy": accuracy, "neighbor_recall": recall})
            print(f"{trees:>6}{accuracy:>10.1%}{recall:>32.1%}")

    # The fewest trees that are good enough: a smaller file and a faster answer.
    run = experiment.expt_runs.find("metrics.neighbor_recall >= 0.95").sort("hyperparameters.trees")[0]
    print(f"chosen: {run.name}")

    run.log_model(DigitModel, artifacts=["index", "labels"])
    run.log_requirements(["annoy"])
    try:
        run.deploy(wait=True)
        served = run.get_deployed_model()
        print("first test digits:", test_labels[:10].tolist())
        print("served answers:   ", served.predict(test_images[:10].tolist()))
        accuracy = np.mean(np.array(served.predict(test_images.tolist())) == test_labels)
        run.log_metric("test_accuracy", accuracy)
        print(f"accuracy over HTTP on {len(test_images)} test digits: {accuracy:.1%}")
    finally:
        run.undeploy(wait=True)
    print(f"serve it again: verta-local serve {run.id}")


if __name__ == "__main__":
    main()
