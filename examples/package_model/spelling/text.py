"""The helper module: words of a text, and what a slip of the finger can make of a word."""

import re
from itertools import pairwise
from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORD = re.compile("[a-z]+")


def words(text):
    """The words of a text, in lower case."""
    return WORD.findall(text.lower())


def read_neighbor_keys():
    """{letter: the letters beside it on the keyboard}, from the data file of this package."""
    rows = Path(__file__).with_name("keyboard.txt").read_text().split()
    neighbors = {letter: set() for letter in LETTERS}
    for row in rows:
        for left, right in pairwise(row):
            neighbors[left].add(right)
            neighbors[right].add(left)
    for upper, lower in pairwise(rows):
        for i, letter in enumerate(lower):
            for above in upper[i : i + 2]:
                neighbors[letter].add(above)
                neighbors[above].add(letter)
    return neighbors


NEIGHBOR_KEYS = read_neighbor_keys()


def slips(word):
    """{what was meant: how likely a slip it is}, for all slips of the finger that could have made `word`.

    Two letters swapped, one too many, one left out, or another key hit; a key beside the right one is thought
    to be three times likelier than a key elsewhere.
    """
    meant = {}
    for i in range(len(word) + 1):
        head, tail = word[:i], word[i:]
        for letter in LETTERS:
            meant[head + letter + tail] = 1
            if tail:
                meant[head + letter + tail[1:]] = 3 if letter in NEIGHBOR_KEYS[tail[0]] else 1
        meant[head + tail[1:]] = 1
        meant[head + tail[:2][::-1] + tail[2:]] = 1
    del meant[word]
    return meant
