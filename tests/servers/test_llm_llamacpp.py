"""`OpenAIChat` on llama.cpp's own server with a real language model. It cannot rank: what is tested is the protocol."""

import asyncio
import json
import re

import pytest
from smollm2_stage import CONTEXT, need, smollm2

from rerankx.errors import BackendError
from rerankx.llm.chat import Unable, Wish
from rerankx.llm.openai import OpenAIChat
from rerankx.network import loop
from rerankx.network.faults import Fault

need()
PASSAGES = (
    "The ferry to Borkum takes two hours.",
    "Bread is baked at five in the morning.",
    "The museum is closed on Mondays.",
    "The night train stops in Ghent.",
    "A catamaran reaches Borkum in one hour.",
    "Roses are cut in spring.",
)
PROMPT = "\n".join(
    [
        "Rank the passages by how well they answer: how long is the way to Borkum?",
        *(f"[{i}] {passage}" for i, passage in enumerate(PASSAGES, 1)),
        'Answer with JSON such as {"ranking": [3, 1, 2]}, best first.',
    ]
)
IDS = list(range(1, len(PASSAGES) + 1))
SCHEMA = {
    "type": "object",
    "properties": {
        "ranking": {
            "type": "array",
            "items": {"type": "integer", "enum": IDS},
            "minItems": len(IDS),
            "maxItems": len(IDS),
        }
    },
    "required": ["ranking"],
    "additionalProperties": False,
}
GREEDY = Wish(max_tokens=60, temperature=0.0, seed=7)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with smollm2(tmp_path_factory.mktemp("smollm2")) as served:
        yield served


@pytest.fixture
def chat(server):
    chat = OpenAIChat("any-name", base_url=server.address)
    yield chat
    loop.run(chat.aclose())


def answered(chat, wish, prompt=PROMPT):
    return loop.run(chat.ask([{"role": "user", "content": prompt}], wish, blocking=True))


def wished(**wish):
    return Wish(**{name: getattr(GREEDY, name) for name in ("max_tokens", "temperature", "seed")} | wish)


def test_a_schema_is_kept_to(chat):
    reply = answered(chat, wished(schema=SCHEMA))
    assert reply.ended == "stop"
    ranking = json.loads(reply.text)["ranking"]
    assert len(ranking) == len(IDS)
    assert set(ranking) <= set(IDS)  # it may repeat one: no grammar forbids it


def test_a_schema_with_one_answer_gets_it(chat):
    places = {str(i): {"const": i} for i in IDS}
    schema = {"type": "object", "properties": places, "required": list(places), "additionalProperties": False}
    assert json.loads(answered(chat, wished(schema=schema)).text) == {str(i): i for i in IDS}


def test_the_first_token_has_20_alternatives(chat):
    reply = answered(chat, wished(max_tokens=1, top_logprobs=20))
    assert len(reply.first_token) == 20
    assert all(value <= 0 for value in reply.first_token.values())
    assert reply.text == max(reply.first_token, key=reply.first_token.get)
    assert (reply.ended, reply.output_tokens) == ("length", 1)


def test_no_alternatives_where_none_are_wished(chat):
    assert answered(chat, wished(max_tokens=1)).first_token is None


def test_the_same_question_has_the_same_answer(chat):
    reply = answered(chat, GREEDY)
    assert reply.text
    assert asyncio.run(chat.ask([{"role": "user", "content": PROMPT}], GREEDY, blocking=False)).text == reply.text


@pytest.mark.parametrize("wish", [wished(max_tokens=5), wished(max_tokens=5, schema=SCHEMA)], ids=["text", "schema"])
def test_a_reply_that_is_cut_off_says_so(chat, wish):
    reply = answered(chat, wish)
    assert (reply.ended, reply.output_tokens) == ("length", 5)
    assert reply.input_tokens > 100
    assert "}" not in reply.text


def test_the_context_is_the_server_s(chat):
    assert loop.run(chat.context_tokens()) == CONTEXT


def test_a_prompt_that_is_too_long_says_what_to_do(chat):
    with pytest.raises(Fault, match="passage_tokens=") as caught:
        answered(chat, wished(schema=SCHEMA), "ferry " * 2 * CONTEXT)
    assert (caught.value.error, caught.value.again) == (BackendError, False)
    assert re.search(rf"exceeds the available context size \({CONTEXT} tokens\)", caught.value.said())


def test_a_schema_that_is_none_blames_the_schema(chat):
    with pytest.raises(Unable) as caught:
        answered(chat, wished(schema={"type": "nonsense"}))
    assert caught.value.features == {"schema"}


@pytest.mark.parametrize(("field", "value"), [("temperature", "hot"), ("seed", "x")])
def test_a_field_of_extra_that_the_server_refuses_blames_no_wish(server, field, value):
    chat = OpenAIChat("any-name", base_url=server.address, extra={field: value})
    with pytest.raises(Fault, match="400") as caught:
        answered(chat, GREEDY)
    assert field in caught.value.said()
    loop.run(chat.aclose())
