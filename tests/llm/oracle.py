"""A scripted oracle: it knows the judgments of a collection, and errs as much as it is told. It is no language model."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripted import brackets, labels_in, passages_in, prompt_of

from rerankx.llm.asking import shortened
from rerankx.llm.chat import Chat, Reply

GRADES = (0, 1, 2, 3)
"""Of TREC's Deep Learning track, passages."""


@dataclass(frozen=True)
class Topic:
    """A query with its candidates, best first by BM25, and all its judgments."""

    query: str
    ids: Sequence[str]
    texts: Sequence[str]
    judged: Mapping[str, int]

    @property
    def grades(self) -> list[int]:
        """Of the candidates, in their order."""
        return [self.judged.get(i, 0) for i in self.ids]


def topics(folder: Path, depth: int) -> list[Topic]:
    """Return what a folder in BEIR's layout holds, with so many candidates for each query."""
    corpus = {}
    for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        document = json.loads(line)
        corpus[document["_id"]] = f"{document['title']} {document['text']}".strip()
    judged: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        judged.setdefault(query, {})[document] = int(grade)
    found = []
    for line in (folder / "candidates.BM25.jsonl").read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        ids = [hit["docid"] for hit in sorted(one["hits"], key=lambda hit: hit["rank"])][:depth]
        found.append(Topic(one["query"], ids, [corpus[i] for i in ids], judged[one["qid"]]))
    return found


def prose(ids, draw):
    return f"Sure! Having read them all, this is my ranking:\n{brackets(ids)}\nI hope that this helps."


def missing_ids(ids, draw):
    return brackets(sorted(draw.sample(ids, max(len(ids) * 3 // 5, 1)), key=ids.index))


def repeated_ids(ids, draw):
    return brackets([one for i in ids for one in [i] * draw.choice([1, 2])])


def unknown_ids(ids, draw):
    return brackets([one for i in ids for one in ([i, len(ids) + draw.randint(1, 50)] if draw.random() < 0.3 else [i])])


def cut_off(ids, draw):
    whole = brackets(ids)
    return whole[: draw.randrange(len(whole))]


def error_text(ids, draw):
    return draw.choice(
        ["Error: rate limit reached", '{"error": "overloaded"}', "<html><body>502 Bad Gateway</body></html>"]
    )


def empty(ids, draw):
    return draw.choice(["", " \n", "<think>[1] > [2]</think>"])


def refusal(ids, draw):
    return f"I'm sorry, but I can't rank these passages: {brackets(ids)}"


HARMLESS = (prose, repeated_ids, unknown_ids)
"""Faults after which the order is the one that was meant."""
HARMFUL = (missing_ids, cut_off)
FATAL = (error_text, empty, refusal)
"""Faults after which there is no order."""
FAULTS = (*HARMLESS, *HARMFUL, *FATAL)


class Oracle:
    """A function that ranks the passages it is shown by their grades.

    Every answer is drawn by the seed and what is shown: the same again for the same prompt, whenever it is asked, but not for the
    one that asks a second time.

    Args:
        graded: The grade of each text.
        noise: How probable it is that a passage passes, in one answer, for one of a grade drawn at random.
        faults: In how many ways an answer may be spoilt; one of them is drawn.
        rate: How probable it is that it is.
        seed: Of all that is drawn.
    """

    def __init__(self, graded: Mapping[str, int], *, noise=0.0, faults=(), rate=0.0, seed=0):
        self.noise, self.faults, self.rate, self.seed = noise, faults, rate, seed
        shown, _ = shortened(list(graded), 400)
        self.graded = dict(zip(shown, graded.values(), strict=True))
        self.asked = 0

    async def __call__(self, messages) -> str:
        self.asked += 1
        prompt = prompt_of(messages)
        ids, draw = self.ranked(prompt), random.Random(f"fault {self.seed} {prompt}")
        if draw.random() < self.rate:
            return draw.choice(self.faults)(ids, draw)
        return brackets(ids)

    def ranked(self, prompt: str) -> list[int]:
        """Return the ids of a prompt's passages, best first; of equal ones the one that is shown first."""
        passages = passages_in(prompt)
        draw = random.Random(f"noise {self.seed} {passages}")
        seen = [self.seen(self.graded[passage], draw) for passage in passages]
        return [i + 1 for i in sorted(range(len(seen)), key=lambda i: -seen[i])]

    def seen(self, grade: int, draw: random.Random) -> int:
        wrong, other = draw.random() < self.noise, draw.choice(GRADES)
        return other if wrong else grade


class PointingOracle(Chat):
    """The scripted oracle as a model that tells the log-probabilities of a letter."""

    model, address = "scripted-oracle", "scripted:oracle"

    def __init__(self, graded: Mapping[str, int]):
        self.oracle = Oracle(graded)

    async def ask(self, messages, wish, *, blocking):
        prompt = prompt_of(messages)
        if not wish.top_logprobs:
            return Reply(brackets(self.oracle.ranked(prompt)))
        labels = labels_in(prompt)
        ranked = [labels[i - 1] for i in self.oracle.ranked(prompt)]
        told = {letter: math.log(0.5) * (place + 1) for place, letter in enumerate(ranked)}
        return Reply(ranked[0], ended="length", first_token=told)
