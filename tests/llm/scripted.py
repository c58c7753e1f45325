"""Scripted models: they read a prompt as it is written and answer by rule. None of them is a language model; none can rank."""

import json
import math
import os
import re
import threading
from contextlib import contextmanager

from chat_stage import Said

from rerankx.interface import Backend
from rerankx.network import policy

VARIABLES = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RERANKX_LLM_API_KEY")
KEY = "sk-kanarienvogel-4711-wellensittich-0815"
QUERY = "how long does a refund take"
RELEVANT = "A refund takes five working days to reach your account."

MADE: list[Backend] = []
"""Those that are closed after the test."""


def kept(backend: Backend) -> Backend:
    """Return the backend, which `closed` will close."""
    MADE.append(backend)
    return backend


def alone(monkeypatch) -> None:
    """Forget the keys and proxies of whoever runs the tests, and do not wait long between two tries."""
    for name in os.environ:
        if name in VARIABLES or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(policy, "BACKOFF_S", 0.01)


@contextmanager
def closed():
    """Close what was kept."""
    yield
    while MADE:
        MADE.pop().close()


def query_in(prompt: str) -> str:
    return re.search(r"<query>(.*?)</query>", prompt, re.DOTALL)[1]


def passages_in(prompt: str) -> list[str]:
    """Return the passages of a prompt, in the order in which they are shown."""
    return re.findall(r"<passage(?: id=\"\w+\")?>\n(.*?)\n</passage>", prompt, re.DOTALL)


def labels_in(prompt: str) -> list[str]:
    return re.findall(r"<passage id=\"(\w+)\">\n.*?\n</passage>", prompt, re.DOTALL)


def prompt_of(asked) -> str:
    """Return the prompt in a request's body, or in the messages that a function is given."""
    return (asked["messages"] if isinstance(asked, dict) else asked)[-1]["content"]


def overlap(query: str, passage: str) -> int:
    return len(set(re.findall(r"\w+", query.lower())) & set(re.findall(r"\w+", passage.lower())))


def best_first(prompt: str) -> list[int]:
    """Return the ids of a prompt, 1 for the first, by words that a passage has in common with the query."""
    passages, query = passages_in(prompt), query_in(prompt)
    return [i + 1 for i in sorted(range(len(passages)), key=lambda i: -overlap(query, passages[i]))]


def brackets(ids) -> str:
    return " > ".join(f"[{i}]" for i in ids)


def in_form(asked, ids) -> str:
    """Return the ids in the form that the request asks for."""
    if isinstance(asked, dict) and "response_format" in asked:
        return json.dumps({"ranking": list(ids)})
    return brackets(ids)


def ranker(asked) -> str:
    """A model that ranks by words in common, in the form asked for."""
    return in_form(asked, best_first(prompt_of(asked)))


async def async_ranker(messages) -> str:
    return ranker(messages)


def lazy(asked) -> str:
    """A model that always says 1, 2, 3."""
    return in_form(asked, range(1, len(passages_in(prompt_of(asked))) + 1))


def pointer(body) -> Said:
    """A model that names the best passage's letter, with log-probabilities where they are asked for; else as `ranker`."""
    prompt = prompt_of(body)
    if "logprobs" not in body:
        return Said(ranker(body))
    letters = [labels_in(prompt)[i - 1] for i in best_first(prompt)]
    told = {letter: math.log(2.0 ** -(place + 1)) for place, letter in enumerate(letters)}
    return Said(letters[0], "length", logprobs=told, usage=(100, 1))


def grade(prompt: str) -> int:
    """Return a grade from 0 to 4, by words in common."""
    (passage,) = passages_in(prompt)
    return min(overlap(query_in(prompt), passage), 4)


def grader(asked) -> str:
    """A model that writes the grade."""
    return str(grade(prompt_of(asked)))


async def async_grader(messages) -> str:
    return grader(messages)


def weigher(body) -> Said:
    """A model that tells the log-probabilities of its grade: most on the grade, a quarter on the one below."""
    g = grade(prompt_of(body))
    told = None
    if body.get("logprobs"):
        told = {str(g): math.log(0.75), str(max(g - 1, 0)) if g else "1": math.log(0.25)}
    return Said(str(g), logprobs=told, usage=(100, 1))


def plain(n: int) -> list[str]:
    """Return n passages with nothing in them."""
    return [f"Number {i} is about something else." for i in range(n)]


def worth(*values: int) -> list[str]:
    """Return a passage for each value, which it states."""
    return [f"It is worth {value}." for value in values]


def value_of(passage: str) -> int:
    found = re.search(r"worth (\d+)", passage)
    return int(found[1]) if found else -1


def valuer(asked) -> str:
    """A model that ranks by the values which passages state, without an error."""
    passages = passages_in(prompt_of(asked))
    return in_form(asked, [i + 1 for i in sorted(range(len(passages)), key=lambda i: -value_of(passages[i]))])


def in_turn(*answers):
    """A model that gives these answers one after the other, and the last of them from then on; a function among them is asked."""
    left, lock = list(answers), threading.Lock()

    def brain(asked):
        with lock:
            answer = left.pop(0) if len(left) > 1 else left[0]
        return answer(asked) if callable(answer) else answer

    return brain


class Counted:
    """A function that keeps the prompts that it was asked."""

    def __init__(self, brain):
        self.brain, self.prompts, self._lock = brain, [], threading.Lock()

    def __call__(self, messages):
        with self._lock:
            self.prompts.append(prompt_of(messages))
        return self.brain(messages)

    @property
    def sizes(self) -> list[int]:
        """How many passages there were in each."""
        return [len(passages_in(prompt)) for prompt in self.prompts]


def warnings_in(caplog) -> list[str]:
    """Return what rerankx has warned of."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("rerankx") and r.levelname == "WARNING"]
