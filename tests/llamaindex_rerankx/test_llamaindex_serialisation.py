import copy
import json
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import pytest

pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")

from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import MetadataMode
from llamaindex_stage import QUESTION, Callbacks, Overlap, ids, nodes_of, retrieved
from pydantic import SecretStr

from llamaindex_rerankx import Rerank, RerankedNode
from rerankx import AuthenticationError, Reranker, Scale, UnknownBackendError
from rerankx.catalogue.endpoints import Dialect

SECRETS = {
    "api_key": "s3cr3t-1",
    "Token": "s3cr3t-2",
    "client_secret": "s3cr3t-3",
    "password": "s3cr3t-4",
    "headers": {"Authorization": "Bearer s3cr3t-5", "X-Team": "search"},
}


def first_of_node(node):
    return node.node_id


def test_class_names_are_stable():
    assert (Rerank.class_name(), RerankedNode.class_name()) == ("Rerank", "RerankedNode")


@pytest.mark.parametrize(
    "there_and_back", [lambda r: r.to_dict(), lambda r: json.loads(r.to_json())], ids=["dict", "json"]
)
def test_a_named_backend_survives_to_dict(installed_backends, there_and_back):
    rerank = Rerank(
        "overlap",
        model="letters",
        weight=0.5,
        top_n=3,
        min_score=0.1,
        metadata_mode=MetadataMode.LLM,
        on_error="input_order",
        deadline_s=9.5,
    )
    again = Rerank.from_dict(there_and_back(rerank))
    assert again.to_dict() == rerank.to_dict()
    best = again.postprocess_nodes(retrieved(), query_str=QUESTION)[0]
    assert (best.node_id, best.score, again.metadata_mode) == ("p5", pytest.approx(0.5), MetadataMode.LLM)


def test_from_dict_takes_what_to_dict_leaves_out(installed_backends):
    data = Rerank("overlap", key=first_of_node, api_key="s3cr3t").to_dict()
    again = Rerank.from_dict(data, key=first_of_node, api_key="s3cr3t")
    assert again.key is first_of_node


def test_no_secret_is_serialised_or_shown(installed_backends):
    rerank = Rerank("overlap", weight=0.5, **SECRETS)
    data = rerank.to_dict()
    shown = f"{data} {rerank.to_json()} {rerank.model_dump_json()} {rerank!r} {rerank}"
    assert "s3cr3t" not in shown
    assert (data["weight"], data["headers"]) == (0.5, {"X-Team": "search"})


@pytest.mark.parametrize("backend", [Overlap(), Reranker(Overlap())], ids=["backend", "reranker"])
def test_a_backend_object_is_described_and_never_mistaken_for_a_name(backend):
    data = Rerank(backend, top_n=3).to_dict()
    assert data["backend"] == "<overlap:words>"
    with pytest.raises(UnknownBackendError):
        Rerank.from_dict(data)


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("way", [pickled, copy.deepcopy, copy.copy], ids=["pickle", "deepcopy", "copy"])
@pytest.mark.parametrize(
    "wrapped", [Overlap, lambda: Reranker(Overlap()), lambda: "overlap"], ids=["object", "reranker", "name"]
)
def test_a_copy_reranks_as_the_original(installed_backends, way, wrapped):
    rerank = Rerank(wrapped(), top_n=2, key=first_of_node)
    again = way(rerank)
    assert (again.top_n, again.key) == (2, first_of_node)
    assert again.to_dict() == rerank.to_dict()
    assert ids(again.postprocess_nodes(nodes_of(["a", "b", "c"]), query_str="b p2")) == ["p2", "p0"]


def test_options_survive_pickle(installed_backends):
    again = pickled(Rerank("overlap", weight=0.5))
    assert again.to_dict()["weight"] == 0.5
    assert again.postprocess_nodes(retrieved(), query_str=QUESTION)[0].score == pytest.approx(0.5)


KEY = "sk-very-secret"


@pytest.fixture
def services(monkeypatch):
    """Backends that ask services over HTTP, and none of their keys in the environment."""
    pytest.importorskip("tenacity", reason="needs the extra: pip install 'rerankx[http]'")
    for variable in ("JINA_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL", "RERANKX_LLM_API_KEY"):
        monkeypatch.delenv(variable, raising=False)


def key_of(reranker):
    backend = reranker._reranker.backend
    return getattr(backend, "backends", [backend])[0]._key.reveal()


@pytest.mark.parametrize("name", ["jina-api:m", "listwise:m", "judge:m"])
@pytest.mark.parametrize("fallback", [None, "embedded"])
def test_a_pickle_holds_no_key_and_a_copy_reads_its_own(services, monkeypatch, name, fallback):
    made = Rerank(name, api_key=KEY, max_retries=1, fallback=fallback)
    dumped = pickle.dumps(made)
    assert KEY.encode() not in dumped
    variable = "JINA_API_KEY" if name == "jina-api:m" else "OPENAI_API_KEY"
    monkeypatch.setenv(variable, "sk-from-the-environment")
    again = pickle.loads(dumped)
    assert key_of(again) == "sk-from-the-environment"
    assert again.to_dict() == made.to_dict()
    assert again.to_dict()["max_retries"] == 1
    assert key_of(made) == KEY


def test_a_pickle_says_when_it_is_loaded_that_there_is_no_key(services):
    dumped = pickle.dumps(Rerank("jina-api:m", api_key=KEY))
    with pytest.raises(AuthenticationError, match="JINA_API_KEY"):
        pickle.loads(dumped)


@pytest.mark.parametrize("way", [copy.deepcopy, copy.copy])
def test_a_copy_has_the_key_and_the_headers(services, way):
    again = way(Rerank("jina-api:m", api_key=KEY, headers={"X-Team": "search"}))
    assert key_of(again) == KEY
    assert again._reranker.backend._headers == {"X-Team": "search"}


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {KEY}"}, {"X-Team": "search"}])
@pytest.mark.parametrize("fallback", [None, "embedded"])
def test_headers_do_not_pickle_as_in_the_core(services, headers, fallback):
    with pytest.raises(TypeError, match="headers may hold secrets, and a pickle holds none") as raised:
        pickle.dumps(Rerank("jina-api:m", api_key=KEY, headers=headers, fallback=fallback))
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("headers", {"Authorization": KEY}),
        ("headers", [("Authorization", KEY)]),
        ("headers", [{"Authorization": KEY}]),
        ("api_key", KEY),  # of which the backend does not say where a copy would read it
        ("api_key", KEY.encode()),
        ("account", SecretStr(KEY)),
        ("url", f"https://user:{KEY}@host/v1"),
    ],
)
def test_other_secrets_do_not_pickle(installed_backends, name, value):
    with pytest.raises(TypeError, match=f"{name} may hold secrets, and a pickle holds none") as raised:
        pickle.dumps(Rerank("overlap", **{name: value}))
    assert KEY not in str(raised.value)


def test_the_places_of_a_dialect_are_no_secrets_of_a_pickle(services):
    made = Rerank(
        "http:m", base_url="http://host", dialect={"path": "/v1/rank", "auth": "X-Api-Key", "tokens": "usage"}
    )
    assert pickled(made).to_dict() == made.to_dict()


@pytest.mark.parametrize(
    "options",
    [
        {"dialect": {"path": "/v1/rank", "auth": "X-Api-Key", "auth_scheme": "", "tokens": "usage.total_tokens"}},
        {"dialect": Dialect(path="/v1/rank", auth="X-Api-Key", extra={"truncate": True})},
        {"scale": Scale.similarity(-1, 1)},
        {"scale": Scale.LOGIT},
    ],
    ids=["mapping", "Dialect", "similarity", "logit"],
)
def test_a_service_is_described_in_full(options):
    pytest.importorskip("tenacity", reason="needs the extra: pip install 'rerankx[http]'")
    rerank = Rerank("http:m", base_url="http://host", **options)
    again = Rerank.from_dict(json.loads(json.dumps(rerank.to_dict())))
    assert again._reranker.backend.fingerprint == rerank._reranker.backend.fingerprint
    assert again._reranker.backend._dialect == rerank._reranker.backend._dialect


def test_pickle_refuses_a_lambda_and_leaves_the_original_alone():
    rerank = Rerank(Overlap(), key=lambda node: "money")
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(rerank)
    assert rerank.key is not None


def test_pickle_leaves_the_callback_manager_behind():
    heard = Callbacks()
    heard.lock = Lock()  # handlers hold what does not pickle
    rerank = Rerank(Overlap(), callback_manager=CallbackManager([heard]))
    assert pickled(rerank).callback_manager.handlers == []
    assert len(rerank.callback_manager.handlers) == 1


def test_a_deep_copy_reports_to_the_same_handlers():
    heard = Callbacks()
    again = copy.deepcopy(Rerank(Overlap(), callback_manager=CallbackManager([heard])))
    again.postprocess_nodes(retrieved(), query_str=QUESTION)
    assert len(heard.started) == 1


def test_a_reranked_node_goes_to_a_dict_and_through_pickle():
    node = Rerank(Overlap(), top_n=1).postprocess_nodes(retrieved(), query_str=QUESTION)[0]
    assert pickled(node) == node
    data = json.loads(node.to_json())
    assert (data["retrieval_rank"], data["degraded"], data["class_name"]) == (6, None, "RerankedNode")


def test_an_option_that_is_a_number_is_no_secret_whatever_its_name():
    reranker = Rerank("embedded", max_tokens=128)
    assert Rerank.from_dict(reranker.to_dict())._reranker.backend.max_tokens == 128


def test_a_backend_object_is_shown_by_what_it_is():
    @dataclass
    class Telling(Overlap):
        api_key: str

        def __post_init__(self):
            super().__init__()

    shown = repr(Rerank(Telling(api_key="s3cr3t")))
    assert "s3cr3t" not in shown
    assert "backend='<overlap:words>'" in shown


def test_objects_among_the_options_stay_out_of_to_dict(installed_backends):
    client = object()
    dumped = Rerank("overlap", client=client, clients=[client, "a"], weight=2.0).to_dict()
    assert "client" not in dumped
    assert (dumped["clients"], dumped["weight"]) == (["a"], 2.0)
    assert json.dumps(dumped)


@pytest.mark.parametrize("kind", [set, frozenset])
def test_a_set_goes_to_to_dict_as_a_sorted_list(installed_backends, kind):
    options = {"fields": kind(["b", "c", "a"]), "sizes": kind([10, 2, 1]), "within": [kind(["a"])], "none": kind()}
    dumped = Rerank("overlap", **options).to_dict()
    assert {name: dumped[name] for name in options} == {
        "fields": ["a", "b", "c"],
        "sizes": [1, 2, 10],
        "within": [["a"]],
        "none": [],
    }


def test_no_secret_within_a_set_is_serialised(installed_backends):
    pairs = {("Authorization", "s3cr3t"), ("X-Team", "search")}
    urls = frozenset(["https://user:s3cr3t@host", "https://host"])
    dumped = Rerank("overlap", headers=pairs, urls=urls).to_dict()
    assert (dumped["headers"], dumped["urls"]) == ([["X-Team", "search"]], ["https://host"])


def test_what_a_model_lacks_survives_to_dict(services):
    data = json.loads(Rerank("listwise", lacks={"schema", "logprobs"}).to_json())
    assert Rerank.from_dict(data).to_dict()["lacks"] == ["logprobs", "schema"]


def test_numbers_of_numpy_and_paths_go_to_to_dict(installed_backends):
    dumped = Rerank("overlap", weight=np.float32(0.5), folder=Path("a/b"), sizes=[np.int64(3)]).to_dict()
    assert (dumped["weight"], dumped["folder"], dumped["sizes"]) == (0.5, str(Path("a/b")), [3])
    assert type(dumped["weight"]) is float


def test_a_url_with_a_password_stays_out(installed_backends):
    dumped = Rerank("overlap", base_url="https://user:s3cr3t@host/v1", url="https://host/v1").to_dict()
    assert "base_url" not in dumped
    assert dumped["url"] == "https://host/v1"


@pytest.mark.parametrize(
    "option",
    [
        {"headers": [("Authorization", "s3cr3t"), ("X-Team", "search")]},
        {"base_url": "https://host/v1?api_key=s3cr3t"},
        {"passphrase": "s3cr3t"},
        {"creds": "s3cr3t"},
    ],
)
def test_secrets_of_other_shapes_stay_out(installed_backends, option):
    assert "s3cr3t" not in str(Rerank("overlap", **option).to_dict())


def test_two_names_are_no_header(installed_backends):
    assert Rerank("overlap", fields=["key", "title"]).to_dict()["fields"] == ["key", "title"]


def test_functions_are_not_shown(installed_backends):
    rerank = Rerank("overlap", key=partial(first_of_node, secret="s3cr3t"))
    assert "s3cr3t" not in repr(rerank)


def test_a_reranker_that_is_given_again_takes_what_to_dict_wrote():
    core = Reranker(Overlap(), on_error="input_order", deadline_s=3)
    again = Rerank.from_dict({**Rerank(core, top_n=2).to_dict(), "backend": core})
    assert (again.top_n, again.on_error, again.deadline_s) == (2, "input_order", 3)


def test_a_deep_copy_shares_the_backend_which_may_hold_a_lock():
    backend = Overlap()
    backend.lock = Lock()
    copied = copy.deepcopy(Rerank(backend, top_n=2))
    assert copied.backend is backend
    assert ids(copied.postprocess_nodes(retrieved(), query_str=QUESTION)) == ["p5", "p3"]


def test_its_fields_have_a_json_schema():
    schema = Rerank.model_json_schema()
    assert {"backend", "model", "top_n", "min_score", "metadata_mode", "on_error"} <= schema["properties"].keys()
    assert not {"key", "on_ranking"} & schema["properties"].keys()


def test_secrets_in_lists_stay_out_and_a_tokenizer_is_none():
    from llamaindex_rerankx.postprocessor import _without_secrets

    options = {"headers": [{"api_key": "s3cr3t", "team": "search"}], "tokenizer": "tok.json"}
    assert _without_secrets(options) == {"headers": [{"team": "search"}], "tokenizer": "tok.json"}
