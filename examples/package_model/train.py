"""Train, log and deploy a class model that lives in the user's own package, `spelling/`, beside this script.

    python examples/package_model/train.py        # from any folder; needs nothing but verta_local

The serving process does not have this folder on its path. It loads the model all the same, because
`log_model` stores the modules that the class comes from, and the data file that one of them reads. The words
are learnt from the help texts that ship with Python; a tenth of the paragraphs is kept aside for the test.
"""

import json
import random
import re
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics

from spelling import SpellingModel
from spelling.model import count_words
from spelling.text import LETTERS, NEIGHBOR_KEYS, words

from verta_local import Client


def read_paragraphs():
    """(nine tenths of the paragraphs to learn from, a tenth to test with), each text once."""
    paragraphs = list(dict.fromkeys(p for text in topics.values() for p in re.split(r"\n\s*\n", text)))
    random.Random(3).shuffle(paragraphs)
    tenth = len(paragraphs) // 10
    return paragraphs[tenth:], paragraphs[:tenth]


def mistype(word, draw):
    """One slip of the finger, of four kinds that are equally likely."""
    i = draw.randrange(len(word))
    kind = draw.randrange(4)
    if kind == 0:
        return word[:i] + word[i + 1 :]
    if kind == 1:
        return word[:i] + draw.choice(LETTERS) + word[i:]
    if kind == 2:
        return word[:i] + draw.choice(sorted(NEIGHBOR_KEYS[word[i]])) + word[i + 1 :]
    return word[:i] + word[i : i + 2][::-1] + word[i + 2 :]


def make_test(texts, known):
    """[(mistyped, meant)], one for each word of five letters or more; none of the left is a known word."""
    draw = random.Random(4)
    pairs = [(mistype(word, draw), word) for word in sorted(set(words(" ".join(texts)))) if len(word) >= 5]
    return [(typed, meant) for typed, meant in pairs if typed != meant and typed not in known]


def main():
    learning, testing = read_paragraphs()
    test = make_test(testing, known=count_words(learning))
    random.Random(5).shuffle(test)
    choosing, checking = test[::2], test[1::2]
    print(f"{len(choosing)} mistyped words to choose by, {len(checking)} to check by")

    client = Client()
    client.set_project("Spelling")
    experiment = client.set_experiment(f"more and more text {time.time_ns()}")

    with tempfile.TemporaryDirectory() as folder:
        words_file = Path(folder, "words.json")
        for share in (0.1, 0.3, 1.0):
            counts = count_words(learning[: int(share * len(learning))])
            words_file.write_text(json.dumps(counts))

            run = client.set_experiment_run(f"{share:.0%} of the text")
            run.log_hyperparameter("share", share)
            run.log_attribute("words", len(counts))
            run.log_artifact("words", str(words_file))

            model = SpellingModel(artifacts=run.fetch_artifacts(["words"]))
            corrected = sum(model.predict(typed) == meant for typed, meant in choosing) / len(choosing)
            run.log_metric("corrected", corrected)
            print(f"  {run.name:<18}{len(counts):>6} words learnt{corrected:>8.1%} corrected")

    run = experiment.expt_runs.top_k("metrics.corrected", 1)[0]
    print(f"best: {run.name}")
    run.log_model(SpellingModel, artifacts=["words"])
    run.log_requirements([])
    try:
        run.deploy(wait=True)
        served = run.get_deployed_model()
        text = "The intepreter raises an excpetion wheb the attribuute is missing."
        print(f"typed:  {text}")
        print(f"served: {served.predict(text)}")
        answers = served.predict(" ".join(typed for typed, _ in checking)).split()
        corrected = sum(a == meant for a, (_, meant) in zip(answers, checking, strict=True)) / len(checking)
        run.log_metric("check/corrected", corrected)
        print(f"corrected over HTTP: {corrected:.1%} of {len(checking)} words")
    finally:
        run.undeploy(wait=True)
    print(f"serve it again: verta-local serve {run.id}")


if __name__ == "__main__":
    main()
