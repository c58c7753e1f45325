"""`Listwise`: what it promises, what may be given, how often it asks, what it sends, and what becomes of the answers."""

import threading

import pytest

pytest.importorskip("httpx", reason="needs the extra: pip install 'rerankx[llm]'")
pytest.importorskip("tenacity", reason="needs the extra: pip install 'rerankx[llm]'")

import scripted
from chat_stage import MODEL, ChatStage
from scripted import KEY, async_ranker, kept, passages_in, pointer, prompt_of, ranker

from rerankx.backends.listwise import Listwise
from rerankx.interface import Backend
from rerankx.testing import BackendContract


@pytest.fixture(autouse=True)
def nothing_of_the_machine(monkeypatch):
    scripted.alone(monkeypatch)
    with scripted.closed():
        yield


def listwise(llm=ranker, **options) -> Listwise:
    return kept(Listwise(llm=llm, **options))


def served(stage, **options) -> Listwise:
    return kept(Listwise(MODEL, **{"base_url": stage.base_url, **options}))


def order_of(scores) -> list[int]:
    return sorted(range(len(scores.values)), key=lambda i: -scores.values[i])


class Counted:
    """A function that keeps the prompts that it was asked."""

    def __init__(self, brain=ranker):
        self.brain, self.prompts, self.lock = brain, [], threading.Lock()

    def __call__(self, messages):
        with self.lock:
            self.prompts.append(prompt_of(messages))
        return self.brain(messages)

    @property
    def sizes(self):
        return [len(passages_in(prompt)) for prompt in self.prompts]


class Contract(BackendContract):
    truncates = True
    on_deadline = "error"

    def variants(self) -> list[Backend]:
        more = [
            {"strategy": "first-token"},
            {"window": 10},
            {"window": "all"},
            {"step": 3},
            {"shuffles": 1},
            {"shuffles": 1, "seed": 1},
            {"passage_tokens": 99},
            {"context_tokens": 9999},
            {"max_output_tokens": 99},
            {"lacks": ("schema",)},
            {"prompt": "{query} {passages} {answer}"},
            {"prompt": "{query} {passages} {answer}."},
        ]
        return [self.made(**options) for options in more]

    def make(self) -> Backend:
        return self.made()


class TestOfAFunction(Contract):
    def made(self, **options) -> Backend:
        lacks = {"lacks": ["seed"]} if "lacks" in options else {}  # a function has none of the features
        return listwise(**options) if not lacks else listwise(async_ranker)


class TestOfAnAsyncFunction(Contract):
    def made(self, **options) -> Backend:
        return listwise(async_ranker, **options) if "lacks" not in options else listwise(ranker)


class TestServed(Contract):
    secret = KEY

    @pytest.fixture(autouse=True)
    def _served(self, monkeypatch):
        monkeypatch.setenv("RERANKX_LLM_API_KEY", KEY)
        with ChatStage(ranker, key=KEY) as self.stage, scripted.closed():
            yield

    def made(self, **options) -> Backend:
        return served(self.stage, **options)

    def variants(self) -> list[Backend]:
        more = [
            {"extra": {"reasoning_effort": "low"}},
            {"extra": {"reasoning_effort": "high"}},
            {"base_url": self.stage.origin + "/other/v1"},
        ]
        return [
            *super().variants(),
            *(self.made(**options) for options in more),
            kept(Listwise("x", base_url=self.stage.base_url)),
        ]


class TestServedWithFirstToken(TestServed):
    def made(self, **options) -> Backend:
        self.stage.brain = pointer
        return served(self.stage, **{"strategy": "first-token", **options})

    def variants(self) -> list[Backend]:
        more = [{"strategy": "sliding"}, {"window": 10}, {"seed": 4, "shuffles": 2}, {"prompt": "{query} {passages}"}]
        return [self.made(**options) for options in more]
