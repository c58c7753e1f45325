import copy
import json
import pickle
import threading
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")

from langchain_core.load import dumpd, load
from langchain_core.runnables import ConfigurableField
from langchain_stage import BEST, QUESTION, FromList, documents, pages
from pydantic import SecretStr

from langchain_rerankx import Reranker, RerankRetriever, rerank
from langchain_rerankx.options import Options
from rerankx import AuthenticationError
from rerankx.testing import FakeBackend

# langchain_core.load.load is in beta and warns of it at every call
pytestmark = pytest.mark.filterwarnings("ignore:The function `load` is in beta")

KEY = "sk-very-secret"
COPIES = [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))]
how = pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle"])


def loaded(dumped, **more):
    return load(
        json.loads(json.dumps(dumped)),
        **more,
        allowed_objects=[Reranker, RerankRetriever],
        valid_namespaces=["langchain_rerankx"],
    )


def secretive(**more):
    return Reranker("named", options={"api_key": KEY, "headers": {"Authorization": f"Bearer {KEY}"}, **more})


@how
def test_a_reranker_over_a_backend_object_copies(copied):
    assert (
        pages(copied(Reranker(FakeBackend(), top_n=2)).invoke({"query": QUESTION, "documents": documents()}))
        == BEST[:2]
    )


@how
def test_a_reranker_over_a_name_copies(named, copied):
    reranker = copied(Reranker("named", weight=2.0))
    assert pages(reranker.invoke({"query": QUESTION, "documents": documents()})) == BEST
    assert named[-1].weight == 2.0


@pytest.mark.parametrize("copied", COPIES[:2], ids=["copy", "deepcopy"])
def test_a_copy_has_the_key(named, copied):
    copied(secretive(weight=2.0)).invoke({"query": QUESTION, "documents": documents()})
    assert (named[-1].weight, named[-1].api_key) == (2.0, KEY)
    assert named[-1].headers == {"Authorization": f"Bearer {KEY}"}


@pytest.mark.parametrize("copied", [*COPIES[:2], lambda made: made.model_copy(deep=True)])
def test_a_copy_shares_the_backend_and_a_client_that_cannot_be_copied(named, copied):
    client = threading.Lock()
    made = copied(Reranker("named", headers={"client": client}))
    assert made.options["headers"] == {"client": client}
    made.invoke({"query": QUESTION, "documents": documents()})
    assert len(named) == 1


@pytest.mark.parametrize("copied", COPIES[:2])
def test_a_copy_of_options_is_the_same(copied):
    options = Options({"api_key": KEY})
    assert copied(options) is options


def test_a_deep_copy_shares_a_backend_object_which_may_hold_a_lock():
    backend = FakeBackend()
    backend.lock = threading.Lock()
    assert copy.deepcopy(Reranker(backend)).backend is backend


def test_functions_are_not_shown():
    assert KEY not in repr(Reranker(FakeBackend(), key=partial(str, KEY), on_ranking=partial(print, KEY)))


@how
def test_a_retriever_copies(copied):
    retriever = rerank(FromList(found=documents(), k=5), FakeBackend(), top_n=2)
    assert pages(copied(retriever).invoke(QUESTION)) == BEST[:2]


def test_a_pickle_leaves_the_backend_behind(named):
    pickle.loads(pickle.dumps(Reranker("named")))
    assert len(named) == 1


@pytest.fixture
def services(monkeypatch):
    """Backends that ask services over HTTP, and none of their keys in the environment."""
    pytest.importorskip("tenacity", reason="needs the extra: pip install 'rerankx[http]'")
    for variable in ("JINA_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL", "RERANKX_LLM_API_KEY"):
        monkeypatch.delenv(variable, raising=False)


def key_of(reranker):
    return reranker._core().backend._key.reveal()


@pytest.mark.parametrize("name", ["jina-api:m", "listwise:m", "judge:m"])
@pytest.mark.parametrize("around", [lambda made: made, lambda made: rerank(FromList(found=[]), made)])
def test_a_pickle_holds_no_key_and_a_copy_reads_its_own(services, monkeypatch, name, around):
    made = around(Reranker(name, api_key=KEY, max_retries=1))
    dumped = pickle.dumps(made)
    assert KEY.encode() not in dumped
    variable = "JINA_API_KEY" if name == "jina-api:m" else "OPENAI_API_KEY"
    monkeypatch.setenv(variable, "sk-from-the-environment")
    again = pickle.loads(dumped)
    again = getattr(again, "reranker", again)
    assert key_of(again) == "sk-from-the-environment"
    assert dict(again.options) == {"max_retries": 1}
    assert key_of(getattr(made, "reranker", made)) == KEY


def test_a_pickle_of_options_that_were_assigned_holds_no_key(services):
    made = Reranker("jina-api:m", api_key=KEY)
    made.options = {"api_key": KEY, "max_retries": 1}
    assert KEY.encode() not in pickle.dumps(made)


def test_a_pickle_of_what_is_configurable_holds_no_key(services):
    made = Reranker("jina-api:m", api_key=KEY).configurable_fields(top_n=ConfigurableField(id="n"))
    assert KEY.encode() not in pickle.dumps(made)


def test_a_copy_from_a_pickle_says_that_it_has_no_key(services):
    again = pickle.loads(pickle.dumps(Reranker("jina-api:m", api_key=KEY)))
    with pytest.raises(AuthenticationError, match="JINA_API_KEY"):
        again.invoke({"query": QUESTION, "documents": documents()})


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {KEY}"}, {"X-Team": "search"}])
def test_headers_do_not_pickle_as_in_the_core(services, headers):
    with pytest.raises(TypeError, match="headers may hold secrets, and a pickle holds none") as raised:
        pickle.dumps(Reranker("jina-api:m", api_key=KEY, headers=headers))
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"headers": {"Authorization": KEY}}, "headers"),
        ({"headers": [("Authorization", KEY)]}, "headers"),
        ({"api_key": KEY}, "api_key"),  # of which the backend does not say where a copy would read it
        ({"headers": {"endpoint": f"https://user:{KEY}@host"}}, "headers"),
    ],
)
def test_other_secrets_do_not_pickle(named, options, name):
    made = Reranker("named", options=options)
    with pytest.raises(TypeError, match=f"{name} may hold secrets, and a pickle holds none") as raised:
        pickle.dumps(made)
    assert KEY not in str(raised.value)
    with pytest.raises(TypeError, match="a pickle holds none"):
        pickle.dumps(made.options)


def test_options_by_themselves_do_not_pickle_with_a_key():
    with pytest.raises(TypeError, match="a pickle holds none"):
        pickle.dumps(Options({"api_key": KEY}))


@pytest.mark.parametrize(
    "shown",
    [
        repr,
        str,
        lambda reranker: str(reranker.model_dump()),
        lambda reranker: reranker.model_dump_json(),
        lambda reranker: json.dumps(dumpd(reranker)),
        lambda reranker: repr(rerank(FromList(found=[]), reranker)),
        lambda reranker: json.dumps(dumpd(rerank(FromList(found=[]), reranker))),
    ],
    ids=["repr", "str", "model_dump", "model_dump_json", "dumpd", "repr of retriever", "dumpd of retriever"],
)
def test_no_key_is_shown(named, shown):
    said = shown(secretive())
    assert "api_key" in said
    assert KEY not in said


def test_the_backend_receives_the_key_itself(named):
    secretive()
    assert (named[0].api_key, named[0].headers) == (KEY, {"Authorization": f"Bearer {KEY}"})


def test_a_secret_str_is_revealed_to_the_backend(named):
    Reranker("named", options={"api_key": SecretStr(KEY)})
    assert named[0].api_key == KEY


def test_options_that_are_assigned_are_masked_too(named):
    reranker = Reranker("named")
    reranker.options = {"api_key": KEY}
    assert KEY not in repr(reranker) + json.dumps(dumpd(reranker))
    reranker.invoke({"query": QUESTION, "documents": documents()})
    assert named[-1].api_key == KEY


def test_a_backend_object_is_shown_by_its_type():
    @dataclass
    class Telling(FakeBackend):
        api_key: str

        def __post_init__(self):
            super().__init__()

    reranker = Reranker(Telling(api_key=KEY))
    assert KEY not in repr(reranker) + json.dumps(dumpd(reranker))
    assert "backend=<Telling>" in repr(reranker)


def test_a_subclass_goes_to_json_under_its_own_name():
    class Mine(Reranker):
        extra: int = 1

    assert dumpd(Mine("embedded", extra=2))["id"] == [*__name__.split("."), "Mine"]
    assert Mine("embedded", extra=2).extra == 2


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "apiKey",
        "token",
        "client_secret",
        "password",
        "passwd",
        "HF_TOKEN",
        "Cookie",
        "Authorization",
        "keys",
    ],
)
def test_names_of_secrets_are_known(name):
    assert isinstance(Options({name: KEY})[name], SecretStr)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 512),
        ("tokenizer", "file.json"),
        ("device", "cpu"),
        ("key_field", "body"),
        ("author", "me"),
        ("fields", ["key", "title"]),
    ],
)
def test_other_options_are_shown(name, value):
    assert Options({name: value}) == {name: value}


def test_a_reranker_goes_to_json_and_back(named):
    reranker = Reranker("named", model="m", top_n=3, min_score=0.2, score_key="s", options={"weight": 2.0})
    dumped = dumpd(reranker)
    assert (dumped["type"], dumped["id"]) == ("constructor", ["langchain_rerankx", "Reranker"])
    assert loaded(dumped) == reranker


def test_a_retriever_goes_to_json_and_back(named):
    retriever = rerank(Reranker("named"), "named", top_n=3)  # any base that goes to JSON and back
    assert loaded(dumpd(retriever)) == retriever


def test_a_backend_object_does_not_go_to_json():
    dumped = dumpd(Reranker(FakeBackend()))
    assert dumped["kwargs"]["backend"]["type"] == "not_implemented"
    with pytest.raises(NotImplementedError):
        loaded(dumped)


def test_a_key_goes_to_json_by_name_and_comes_back_from_the_secrets_map(named):
    dumped = dumpd(Reranker("named", api_key=KEY, weight=2.0))
    assert dumped["kwargs"]["api_key"] == {"lc": 1, "type": "secret", "id": ["NAMED_API_KEY"]}
    assert loaded(dumped, secrets_map={"NAMED_API_KEY": KEY}).options["api_key"].get_secret_value() == KEY
    assert (named[-1].api_key, named[-1].weight) == (KEY, 2.0)


def test_without_the_secrets_map_the_backend_gets_no_key(named):
    loaded(dumpd(Reranker("named", api_key=KEY)))
    assert named[-1].api_key is None


@pytest.mark.parametrize(
    ("backend", "variable"),
    [
        ("cohere", "COHERE_API_KEY"),
        ("cohere:rerank-v4.0-pro", "COHERE_API_KEY"),
        ("jina-api", "JINA_API_KEY"),
        ("mixedbread", "MXBAI_API_KEY"),
        ("llamacpp", "LLAMA_API_KEY"),
        ("listwise:m", "RERANKX_LLM_API_KEY"),  # with an address that is not OpenAI's, as here
    ],
)
def test_keys_are_called_as_their_providers_call_them(backend, variable):
    reranker = Reranker.model_construct(backend=backend, options=Options({"api_key": KEY, "base_url": "http://host"}))
    assert reranker.lc_secrets == {"api_key": variable}


def test_the_places_of_a_dialect_are_no_secrets():
    dialect = {"path": "/v1/rank", "auth": "X-Api-Key", "tokens": "usage.total_tokens"}
    again = loaded(dumpd(Reranker("http:m", base_url="http://host", dialect=dialect)))
    assert dict(again.options["dialect"]) == dialect


def test_a_key_within_an_option_does_not_go_to_json(named):
    with pytest.raises(NotImplementedError):
        loaded(dumpd(secretive()))


def test_options_are_read_only(named):
    with pytest.raises(TypeError, match="does not support item assignment"):
        secretive().options["weight"] = 3.0


class Named(NamedTuple):
    held: str


@pytest.mark.parametrize(
    "options",
    [
        {"api_keys": {"s3cr3t"}},
        {"base_url": "https://user:s3cr3t@host/v1"},
        {"base_url": "https://host/v1?api_key=s3cr3t"},
        {"headers": [("Authorization", "s3cr3t")]},
        {"passphrase": "s3cr3t"},
        {"headers": {"Cookie": Named("s3cr3t")}},
        {"api_keys": ("s3cr3t",)},
        {"api_key": b"s3cr3t"},
        {"headers": [{"Authorization": "s3cr3t"}]},
    ],
)
def test_a_secret_is_masked_in_whatever_holds_it(options):
    held = Options(options)
    assert "s3cr3t" not in repr(held)
    assert "s3cr3t" not in str(held.shown())
