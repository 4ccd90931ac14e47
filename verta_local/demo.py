"""`verta-local demo`: the whole way from a first run to a served prediction, on text that ships with Python.

The job is a small search engine over the help texts of the standard library (`pydoc_data.topics`), in pure
Python. One sentence is taken out of each of 500 paragraphs; a run's score is how often the topic of such a
sentence, which the index never saw, is found. Ranking is Okapi BM25: Robertson and Zaragoza, "The
Probabilistic Relevance Framework: BM25 and Beyond", 2009, with Lucene's inverse document frequency, which is
never negative.
"""

from __future__ import annotations

import json
import math
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .run import ExperimentRun

PROJECT = "verta-local demo"
QUESTIONS = (
    "anonymous function",
    "when is a finally block executed?",
    "private names of a class",
)
_QUESTION_COUNT = 500  # sentences to hide; half choose the settings, the other half measure the choice
_SEED = 1991  # of the choice of those sentences
_MIN_PARAGRAPH_WORDS = 12  # shorter ones are grammar rules and headings
_MIN_SENTENCE_WORDS = 8
_RANKS = 10  # topics that an answer is looked for in
_WORD = re.compile(r"[a-z_]+")
_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z])")
_STOP_WORDS = frozenset(
    _WORD.findall(
        "a an and are as at be but by can do does for from has have how i if in is it its may my not of on "
        "or that the then there these this to was what when which will with"
    )
)
_SUFFIXES = ("ations", "ation", "ings", "ing", "ies", "ied", "ed", "es", "s", "ly")


@dataclass(frozen=True)
class Paragraph:
    """One paragraph of a help topic: the topic's key, its title line, the text on one line."""

    topic: str
    title: str
    text: str


@dataclass(frozen=True)
class Settings:
    """What a run tries out. `k1` 0 ignores how often a word occurs, `b` 0 how long a paragraph is."""

    k1: float
    b: float
    stemming: bool = False
    stop_words: bool = True  # False: words such as "the" are left out
    title_weight: int = 0  # how many times the title counts as part of each paragraph


# Each differs from the one before in one point, so that the table of scores reads as a story.
RUNS: Mapping[str, Settings] = {
    "word or no word": Settings(k1=0.0, b=0.0),
    "BM25": Settings(k1=1.2, b=0.75),
    "BM25 + stems": Settings(k1=1.2, b=0.75, stemming=True),
    "BM25 + stems - stop words": Settings(k1=1.2, b=0.75, stemming=True, stop_words=False),
    "BM25 + stems - stop words + titles": Settings(k1=1.2, b=0.75, stemming=True, stop_words=False, title_weight=1),
    "all of that, k1=2 b=0.9": Settings(k1=2.0, b=0.9, stemming=True, stop_words=False, title_weight=1),
}


@dataclass(frozen=True)
class Index:
    """An inverted index: word -> [(place in the list of paragraphs, weight of the word there), ...]."""

    settings: Settings
    places: Sequence[tuple[str, int]]  # topic of each paragraph, and its line in the topic's file
    postings: Mapping[str, Sequence[tuple[int, float]]]

    def to_json(self) -> str:
        """The index as JSON text; `from_json` reads it."""
        rounded = {word: [(i, round(weight, 4)) for i, weight in found] for word, found in self.postings.items()}
        return json.dumps({"settings": asdict(self.settings), "places": self.places, "postings": rounded})

    @classmethod
    def from_json(cls, text: str) -> Index:
        """Read what `to_json` wrote."""
        data = json.loads(text)
        return cls(Settings(**data["settings"]), data["places"], data["postings"])

    def best_paragraphs(self, question: str) -> list[tuple[int, float]]:
        """(paragraph, score), best first; equal scores in the order of the text."""
        scores: dict[int, float] = {}
        for word in sorted(set(_words(question, self.settings))):
            for paragraph, weight in self.postings.get(word, ()):
                scores[paragraph] = scores.get(paragraph, 0.0) + weight
        return sorted(scores.items(), key=lambda item: (-item[1], item[0]))

    def best_topics(self, question: str, count: int) -> list[tuple[str, int, float]]:
        """(topic, line of its best paragraph, score), best first; at most `count`."""
        best: dict[str, tuple[str, int, float]] = {}
        for paragraph, score in self.best_paragraphs(question):
            topic, line = self.places[paragraph]
            best.setdefault(topic, (topic, line, score))
            if len(best) == count:
                break
        return list(best.values())


class HelpSearch:
    """The class model: finds the help topic that a question is about.

    Artifacts: `index` is the file of the inverted index, `topics` a folder with a text file for each topic,
    one paragraph a line.
    """

    def __init__(self, artifacts: Mapping[str, str]) -> None:
        self.index = Index.from_json(Path(artifacts["index"]).read_text(encoding="utf-8"))
        self.topics = Path(artifacts["topics"])

    def predict(self, data: str) -> list[dict[str, object]]:
        """The three best topics for a question, each with its score and the paragraph that speaks for it."""
        if not isinstance(data, str):
            raise TypeError(f"a question is a text, not {type(data).__name__}")
        answers: list[dict[str, object]] = []
        for topic, line, score in self.index.best_topics(data, 3):
            paragraphs = (self.topics / f"{topic}.txt").read_text(encoding="utf-8").splitlines()
            answers.append({"topic": topic, "score": round(score, 2), "text": paragraphs[line]})
        return answers


def run_demo(store: Path | None = None, out: TextIO | None = None) -> int:
    """Train, log, choose, deploy, predict over HTTP, undeploy; say so in about 30 lines.

    `store` is the folder of the store, default: the one that `Client()` finds or creates. Each call adds an
    experiment to the project "verta-local demo" and leaves no process behind. Returns the exit code, 0.

    Raises:
        ModuleNotFoundError: this Python comes without its help texts.
    """
    # The serving process imports this module for HelpSearch alone and needs no client.
    from .client import Client  # noqa: PLC0415 - start-up time

    started = time.perf_counter()
    page = _Page(out or sys.stdout)
    paragraphs = read_paragraphs()
    hidden, choosing, checking = hide_sentences(paragraphs)
    topic_count = len({paragraph.topic for paragraph in paragraphs})
    page.write(f"A search of Python's own help: {topic_count} topics, {len(paragraphs):,} paragraphs; offline.")

    client = Client(str(store)) if store is not None else Client()
    client.set_project(PROJECT)
    # To the millisecond, so that a second demo in this store does not meet the runs of the first.
    moment = f"{time.strftime('%Y-%m-%d %H:%M:%S')}.{time.time_ns() // 1_000_000 % 1000:03}"
    experiment = client.set_experiment(f"help search {moment}")

    page.step("Log six runs. Score: is the topic of a sentence found that the index never saw?")
    page.write(f"   {'run':<36}{'found first':>12}{'in first 5':>12}{'mean 1/rank':>13}")
    for name, settings in RUNS.items():
        run = client.set_experiment_run(name)
        score = _log_run(run, settings, build_index(paragraphs, settings, hidden), choosing)
        shares = f"{score.found_first:>12.1%}{score.found_in_5:>12.1%}"
        page.write(f"   {name:<36}{shares}{score.mean_reciprocal_rank:>13.3f}", timed=True)

    page.step('Choose: expt_runs.find("metrics.found_in_5 >= 0.5").sort("metrics.mean_reciprocal_rank", ...)')
    good_runs = experiment.expt_runs.find("metrics.found_in_5 >= 0.5")
    run = good_runs.sort("metrics.mean_reciprocal_rank", descending=True)[0]
    settings = RUNS[run.name]
    score = measure(build_index(paragraphs, settings, hidden), checking)
    run.log_metrics({f"check/{key}": value for key, value in asdict(score).items()})
    run.log_tags(["best"])
    guess = Counter(topic for topic, _ in checking).most_common(1)[0][1] / len(checking)
    page.write(
        f'   "{run.name}"; on {len(checking)} other sentences {score.found_first:.1%} are found first',
        timed=True,
    )
    page.write(f"   (always to answer the most frequent topic: {guess:.1%})")

    page.step("Log it as a class model: HelpSearch, with a file and a folder as its artifacts")
    with tempfile.TemporaryDirectory(prefix="verta-local-demo-") as folder:
        page.write(f"   {_log_model(run, paragraphs, Path(folder))}", timed=True)

    try:
        page.step("Deploy it in a process of its own, predict over HTTP")
        status = run.deploy(wait=True)
        page.write(f"   ready at {status['url']}", timed=True)
        served = run.get_deployed_model()
        here = HelpSearch(artifacts=run.fetch_artifacts(["index", "topics"]))
        for question in QUESTIONS:
            page.restart_clock()
            answers = served.predict(question)
            page.write(f"   {question} -> {', '.join(str(answer['topic']) for answer in answers)}", timed=True)
            page.write(f"      {_shorten(str(answers[0]['text']), 86)}")
            if answers != here.predict(question):
                page.write("      but the same class answers otherwise in this process: a bug, please report it")
                return 1
    finally:
        run.undeploy(wait=True)

    elapsed_s = time.perf_counter() - started
    page.step(f"Undeployed: nothing runs, all is in the store; {elapsed_s:.1f} s in all. Next:")
    command = ["verta-local"] if store is None else ["verta-local", "--store", str(store)]
    name = run.id[:8]
    for arguments in (
        ["ls"],
        ["show", name],
        ["deploy", name],
        ["predict", name, json.dumps(QUESTIONS[0])],
        ["undeploy", name],
        ["serve", name],
        ["verify"],
    ):
        page.write(f"   {_command_line([*command, *arguments])}")
    return 0


# --- the text --------------------------------------------------------------------------------------------


def read_paragraphs() -> list[Paragraph]:
    """The paragraphs of prose in Python's help topics, each text once, in the order of the topics.

    Raises:
        ModuleNotFoundError: this Python comes without its help texts.
    """
    try:
        from pydoc_data.topics import topics  # noqa: PLC0415 - start-up time: 0.5 MB of text
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the demo searches Python's help texts, and this Python has no module pydoc_data; "
            "run it with a Python that has its full standard library"
        ) from None
    paragraphs: dict[str, Paragraph] = {}
    for topic, text in topics.items():
        title = text.lstrip().split("\n", 1)[0]
        for block in re.split(r"\n\s*\n", text):
            line = " ".join(block.split())
            if len(_WORD.findall(line.lower())) >= _MIN_PARAGRAPH_WORDS:
                # The same paragraph stands in several topics, e.g. in "types" and in "typesmapping".
                paragraphs.setdefault(line, Paragraph(topic, title, line))
    return list(paragraphs.values())


Question = tuple[str, str]  # (topic, a sentence of it that no index holds)


def hide_sentences(paragraphs: Sequence[Paragraph]) -> tuple[dict[int, str], list[Question], list[Question]]:
    """Take a sentence out of up to 500 paragraphs, the same ones each time.

    Returns {place of a paragraph: what is left of its text}, questions to choose by, questions to check by.
    """
    draw = random.Random(_SEED)
    everything = "\n".join(paragraph.text for paragraph in paragraphs)
    rest: dict[int, str] = {}
    questions: list[Question] = []
    for place in draw.sample(range(len(paragraphs)), len(paragraphs)):
        sentences = _SENTENCE_END.split(paragraphs[place].text)
        chosen = draw.randrange(len(sentences))
        sentence = sentences[chosen]
        # Many paragraphs differ in a word only: a sentence that stands elsewhere too would not be hidden.
        is_long = len(_WORD.findall(sentence.lower())) >= _MIN_SENTENCE_WORDS
        if len(sentences) > 1 and is_long and everything.count(sentence) == 1:
            rest[place] = " ".join(sentences[:chosen] + sentences[chosen + 1 :])
            questions.append((paragraphs[place].topic, sentence))
        if len(questions) == _QUESTION_COUNT:
            break
    return rest, questions[::2], questions[1::2]


# --- the index -------------------------------------------------------------------------------------------


def build_index(paragraphs: Sequence[Paragraph], settings: Settings, hidden: Mapping[int, str]) -> Index:
    """Weigh each word of each paragraph; `hidden` replaces the text of paragraphs that lost a sentence."""
    counts: list[Counter[str]] = []
    places: list[tuple[str, int]] = []
    lines: Counter[str] = Counter()
    for i, paragraph in enumerate(paragraphs):
        count = Counter(_words(hidden.get(i, paragraph.text), settings))
        if settings.title_weight:
            for word in _words(f"{paragraph.title} {paragraph.topic}", settings):
                count[word] += settings.title_weight
        counts.append(count)
        places.append((paragraph.topic, lines[paragraph.topic]))
        lines[paragraph.topic] += 1
    lengths = [count.total() for count in counts]
    mean_length = sum(lengths) / len(lengths)
    holders: dict[str, list[int]] = {}
    for i, count in enumerate(counts):
        for word in count:
            holders.setdefault(word, []).append(i)
    postings: dict[str, list[tuple[int, float]]] = {}
    for word, found in holders.items():
        rarity = math.log(1 + (len(counts) - len(found) + 0.5) / (len(found) + 0.5))
        postings[word] = []
        for i in found:
            often = counts[i][word]
            damping = settings.k1 * (1 - settings.b + settings.b * lengths[i] / mean_length)
            postings[word].append((i, rarity * often * (settings.k1 + 1) / (often + damping)))
    return Index(settings, places, postings)


@dataclass(frozen=True)
class Score:
    """How well an index answers: each a number from 0 to 1."""

    found_first: float
    found_in_5: float
    mean_reciprocal_rank: float


def ranks(index: Index, questions: Sequence[Question]) -> list[int]:
    """At which rank (1 is the first) each question's topic is found, 0 for not among the first ten."""
    found = []
    for topic, sentence in questions:
        topics = [answer for answer, _, _ in index.best_topics(sentence, _RANKS)]
        found.append(topics.index(topic) + 1 if topic in topics else 0)
    return found


def measure(index: Index, questions: Sequence[Question]) -> Score:
    """The scores of an index on questions."""
    return _score(ranks(index, questions))


def _score(found: Sequence[int]) -> Score:
    return Score(
        found_first=_share_within(found, 1),
        found_in_5=_share_within(found, 5),
        mean_reciprocal_rank=sum(1 / rank for rank in found if rank) / len(found),
    )


def _share_within(found: Sequence[int], rank: int) -> float:
    return sum(0 < place <= rank for place in found) / len(found)


def _words(text: str, settings: Settings) -> list[str]:
    words = _WORD.findall(text.lower())
    if not settings.stop_words:
        words = [word for word in words if word not in _STOP_WORDS]
    return [_stem(word) for word in words] if settings.stemming else words


def _stem(word: str) -> str:
    """Cut the longest known ending that leaves three letters; crude, worth 2 points of recall here."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)]
    return word


# --- the store -------------------------------------------------------------------------------------------


def _log_run(run: ExperimentRun, settings: Settings, index: Index, questions: Sequence[Question]) -> Score:
    """Score an index and log all about it: hyperparameters, metrics, the recall by rank as observations."""
    found = ranks(index, questions)
    score = _score(found)
    run.log_hyperparameters(asdict(settings))
    run.log_attribute("words", len(index.postings))
    for rank in range(1, _RANKS + 1):
        run.log_observation("recall_by_rank", _share_within(found, rank), epoch_num=rank)
    run.log_metrics(asdict(score))
    run.log_tags(["demo"])
    return score


def _log_model(run: ExperimentRun, paragraphs: Sequence[Paragraph], folder: Path) -> str:
    """Write the artifacts into `folder`, log them and the class; returns a line that says what was logged."""
    index_file = folder / "index.json"
    topics = folder / "topics"
    topics.mkdir()
    lines: dict[str, list[str]] = {}
    for paragraph in paragraphs:
        lines.setdefault(paragraph.topic, []).append(paragraph.text + "\n")
    for topic, texts in lines.items():
        (topics / f"{topic}.txt").write_text("".join(texts), encoding="utf-8")
    # No sentence is hidden from the index that is served: those were for measuring.
    index_file.write_text(build_index(paragraphs, RUNS[run.name], {}).to_json(), encoding="utf-8")

    run.log_artifact("index", str(index_file))
    run.log_artifact("topics", str(topics))
    run.log_model(HelpSearch, artifacts=["index", "topics"])
    run.log_requirements([])
    size_kb = index_file.stat().st_size / 1000
    return f"index: index.json, {size_kb:.0f} kB; topics: a folder of {len(lines)} text files"


# --- the page --------------------------------------------------------------------------------------------


class _Page:
    """The demo's output: numbered steps, and lines that end with the time since the last one."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._steps = 0
        self._clock = time.perf_counter()

    def step(self, text: str) -> None:
        self._steps += 1
        self.write(f"\n{self._steps}. {text}")
        self.restart_clock()

    def restart_clock(self) -> None:
        self._clock = time.perf_counter()

    def write(self, text: str, *, timed: bool = False) -> None:
        if timed:
            elapsed_ms = (time.perf_counter() - self._clock) * 1000
            text = f"{text:<87}{f'{elapsed_ms:,.0f} ms':>9}"
            self.restart_clock()
        # Flushed, because the slow steps are worth watching in a pipe too.
        print(text, file=self._out, flush=True)


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: text.rfind(" ", 0, width - 3)] + " ..."


def _command_line(arguments: Sequence[str]) -> str:
    """As it is to be typed into the platform's usual shell."""
    return subprocess.list2cmdline(arguments) if sys.platform == "win32" else shlex.join(arguments)
