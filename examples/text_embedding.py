# %% [markdown]
# # Text embedding and nearest neighbours
#
# The example that Verta's page on class models is built around, offline: a TensorFlow SavedModel turns a
# text into 64 numbers, an Annoy index finds the paragraphs with the most similar numbers. Neither of the
# two can be pickled, so the model is a **class**, and they are its artifacts. The paragraphs are the
# help texts that ship with Python.
#
# `pip install "verta_local[tensorflow]"`, then `python text_embedding.py`, or run the notebook. Both
# work in the current folder, and put what they make into `generated/`. TensorFlow needs about 1.3 GB of
# disk.

# %%
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow greets with a screen of log lines otherwise
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # the same rounding on every processor

import re
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import tensorflow as tf
from annoy import AnnoyIndex

from verta_local import Client

tf.get_logger().setLevel("WARNING")

# %% [markdown]
# ## The texts
#
# Every paragraph of at least twelve words, once; many stand in several topics.

# %%
topic_of = {}
seen = set()
for topic, text in topics.items():
    for block in re.split(r"\n\s*\n", text):
        words = tuple(re.findall("[a-z]+", block.lower()))
        if len(words) >= 12 and words not in seen:
            seen.add(words)
            topic_of[" ".join(block.split())] = topic
paragraphs = list(topic_of)
print(f"{len(paragraphs)} paragraphs in {len(set(topic_of.values()))} topics")

# %% [markdown]
# ## The encoder
#
# Words are hashed into 4,096 buckets, each bucket has a random direction of 64 numbers (seeded, so that
# it is the same each time), and a text is the mean of its words. What it learns from the paragraphs is
# how rare a word is: the rarer, the longer its vector.

# %%
BUCKETS = 4096
EMBEDDING_LENGTH = 64


class Encoder(tf.Module):
    def __init__(self, texts):
        super().__init__()
        self.table = tf.Variable(tf.random.stateless_normal([BUCKETS, EMBEDDING_LENGTH], seed=[1, 2]))
        document_counts = np.zeros(BUCKETS)
        for buckets in self.buckets(tf.constant(texts)):
            document_counts[np.unique(buckets)] += 1
        rarity = np.log(len(texts) / (1 + document_counts)).astype("float32")
        self.table.assign(self.table * rarity[:, None])

    def buckets(self, texts):
        words = tf.strings.split(tf.strings.regex_replace(tf.strings.lower(texts), "[^a-z]+", " "))
        return tf.strings.to_hash_bucket_fast(words, BUCKETS)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        means = tf.reduce_mean(tf.gather(self.table, self.buckets(texts)), axis=1)
        return tf.math.l2_normalize(means, axis=1)


encoder = Encoder(paragraphs)
embeddings = encoder(tf.constant(paragraphs)).numpy()
tf.saved_model.save(encoder, "generated/saved_model/")
for path in sorted(Path("generated/saved_model").rglob("*")):
    print(path.as_posix() + ("/" if path.is_dir() else f"  {path.stat().st_size:,} bytes"))

# %% [markdown]
# ## The index

# %%
TREES = 10
index = AnnoyIndex(EMBEDDING_LENGTH, "angular")
index.set_seed(1)
for i, embedding in enumerate(embeddings):
    index.add_item(i, embedding)
index.build(TREES)
index.save("generated/index.ann")
print(f"generated/index.ann  {Path('generated/index.ann').stat().st_size:,} bytes")

# %% [markdown]
# ## The model
#
# A class that uses this notebook's imports and globals. `artifacts` is a dictionary of paths; the values
# are of no concern here, Verta Local takes care of them when the model is deployed.


# %%
class Model(object):  # noqa: UP004
    def __init__(self, artifacts):
        self.encoder = tf.saved_model.load(artifacts["tensorflow_saved_model"])
        self.index = AnnoyIndex(EMBEDDING_LENGTH, "angular")
        self.index.load(artifacts["nearest_neighbor_index"])

    def predict(self, data):
        """For each text of a list, the numbers of the six most similar paragraphs, best first."""
        return [self.index.get_nns_by_vector(vector, 6) for vector in self.encoder(tf.constant(data)).numpy()]


# %% [markdown]
# ## Log it
#
# The folder keeps its empty `assets/`, the file keeps its name.

# %%
client = Client()
client.set_project("Text search")
client.set_experiment("Baselines")
run = client.set_experiment_run()
run.log_hyperparameters({"trees": TREES, "buckets": BUCKETS, "embedding_length": EMBEDDING_LENGTH})
run.log_artifact("tensorflow_saved_model", "generated/saved_model/")
run.log_artifact("nearest_neighbor_index", "generated/index.ann")

# %%
run.log_model(Model, artifacts=["tensorflow_saved_model", "nearest_neighbor_index"])
run.log_requirements(["annoy", "tensorflow"])

# %% [markdown]
# ## Try it here, and measure it
#
# Two checks. A paragraph must be its own nearest neighbour. And the other five should come from the same
# topic more often than by chance: similar words, similar matter.

# %%
artifacts = run.fetch_artifacts(["tensorflow_saved_model", "nearest_neighbor_index"])
model = Model(artifacts=artifacts)
found = model.predict(paragraphs)
recall = sum(ids[0] == i for i, ids in enumerate(found)) / len(found)

topic = [topic_of[paragraph] for paragraph in paragraphs]
same_topic = np.mean([topic[i] == topic[other] for i, ids in enumerate(found) for other in ids[1:]])
sizes = Counter(topic).values()
chance = sum(size * (size - 1) for size in sizes) / (len(topic) * (len(topic) - 1))

run.log_metric("recall", recall)
run.log_metric("same_topic", same_topic)
run.log_metric("same_topic_by_chance", chance)
print(f"recall@1 of the paragraph itself: {recall:.1%}")
print(f"neighbours of the same topic: {same_topic:.1%} (by chance: {chance:.1%})")

# %% [markdown]
# ## Deploy it
#
# The class now runs in another process, with its artifacts straight from the store. `deploy(wait=True)`
# returns when it has loaded and is ready to answer.

# %%
status = run.deploy(wait=True)
print(status["status"])

# %%
served = run.get_deployed_model()
questions = [
    "a global statement lists names of global variables",
    "shift operators move the bits of an integer to the left or right",
    "the yield expression makes a generator function",
]
for question, ids in zip(questions, served.predict(questions), strict=True):
    print(question)
    for i in ids[:2]:
        print(f"    [{topic[i]}] {paragraphs[i][:90]}")

# %%
answers = served.predict(paragraphs)
print(f"{len(answers)} paragraphs over HTTP; the answers are those from above: {answers == found}")

# %%
status = run.undeploy(wait=True)
print(status["status"])
print(f"serve it again: verta-local serve {run.id}")
