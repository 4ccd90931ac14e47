"""The class model. It imports its helper module the way modules of a package do."""

import json
from pathlib import Path

from .text import WORD, slips, words


class SpellingModel:
    """Replaces each unknown word of a text by the likeliest known word.

    Artifacts: `words` is a JSON file, {word: how often it was seen}.
    """

    def __init__(self, artifacts):
        self.counts = json.loads(Path(artifacts["words"]).read_text())

    def predict(self, data):
        """The text, in lower case, corrected."""
        return WORD.sub(lambda match: self.correct(match.group()), data.lower())

    def correct(self, word):
        """The likeliest known word: how often it was seen, times how likely the slip is."""
        if word in self.counts:
            return word
        weights = slips(word)
        known = [candidate for candidate in weights if candidate in self.counts]
        return max(
            known,
            key=lambda candidate: (weights[candidate] * self.counts[candidate], candidate),
            default=word,
        )


def count_words(texts):
    """{word: how often it is seen}: all that this model learns."""
    counts = {}
    for text in texts:
        for word in words(text):
            counts[word] = counts.get(word, 0) + 1
    return counts
