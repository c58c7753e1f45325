"""A pipeline as data, and back."""

import inspect
import json
import sys
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

import rerankx
import rerankx.spec
from rerankx import (
    AuthenticationError,
    Cached,
    Calibrated,
    Cascade,
    DiskStore,
    Fallback,
    Floor,
    Fusion,
    MemoryStore,
    MissingDependencyError,
    Reranker,
    SpecError,
    Windowed,
    from_spec,
    to_spec,
)
from rerankx.after import drop_near_duplicates, fill_budget, lost_in_the_middle, mmr
from rerankx.backends.embedded import Embedded
from rerankx.compose.calibrated import Calibration
from rerankx.testing import FakeBackend

QUERY = "how long does a refund take"
TEXTS = ["The museum opens on Sundays.", "A refund takes five working days.", "Refunds are paid to your account."]

WHOLE = {
    "backend": {
        "cascade": {
            "stages": [
                {"fusion": {"backends": ["retrieval", "embedded"], "weights": [1.0, 2.0]}},
                {
                    "windowed": {
                        "backend": {"cached": {"backend": {"embedded": {"max_tokens": 128}}}},
                        "size": 60,
                        "overlap": 10,
                    }
                },
                {
                    "fallback": {
                        "backends": ["flashrank", "embedded"],
                        "min_scores": {"embedded:all-MiniLM-L6-v2": 0.25},
                    }
                },
            ],
            "keep": [20, 10],
            "deadlines_s": [None, 0.5, 1.0],
        }
    },
    "on_error": "input_order",
    "deadline_s": 2.0,
    "after": ["drop_near_duplicates", {"mmr": {"balance": 0.5}}, "lost_in_the_middle"],
}


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("CO_API_KEY", "from-the-environment")
    monkeypatch.setenv("JINA_API_KEY", "from-the-environment")


# There and back


def test_a_pipeline_is_declared_and_ranks():
    declared = from_spec({"backend": {"cascade": {"stages": ["retrieval", "embedded"], "keep": 2}}})
    built = Reranker(Cascade(["retrieval", "embedded"], keep=2))
    assert (
        declared.rerank(QUERY, TEXTS).documents
        == built.rerank(QUERY, TEXTS).documents
        == [TEXTS[1], TEXTS[0], TEXTS[2]]
    )


def test_what_is_written_is_what_was_read():
    assert to_spec(from_spec(WHOLE)) == WHOLE


def test_the_parts_are_those_that_are_declared():
    reranker = from_spec(WHOLE)
    fusion, windowed, fallback = reranker.backend.stages
    assert (type(fusion), fusion.weights, type(windowed), windowed.size) == (Fusion, (1.0, 2.0), Windowed, 60)
    assert (type(windowed.backend), windowed.backend.backend.max_tokens) == (Cached, 128)
    assert (type(fallback), fallback.min_scores) == (Fallback, {"embedded:all-MiniLM-L6-v2": 0.25})
    assert (reranker.on_error, reranker.deadline_s, reranker.backend.keep) == ("input_order", 2.0, (20, 10))
    assert reranker.after[0] is drop_near_duplicates
    assert (reranker.after[1].func, reranker.after[1].keywords, reranker.after[2]) == (
        mmr,
        {"balance": 0.5},
        lost_in_the_middle,
    )


@pytest.mark.parametrize(
    "made",
    [
        lambda: Reranker(),
        lambda: Reranker("minilm"),
        lambda: Reranker("qwen3"),
        lambda: Reranker("minilm", max_tokens=256),
        lambda: Reranker("bge", fallback=["minilm", "embedded"]),
        lambda: Reranker("cohere"),
        lambda: Reranker("cohere:rerank-v4.0-fast", max_retries=1, budget_usd=2.0),
        lambda: Reranker("jina-api", timeout_s=3.0),
        lambda: Reranker("tei", base_url="http://localhost:8080", model="bge"),
        lambda: Reranker("listwise:gpt-6-luna", base_url="http://localhost:1", api_key="k", window=10),
        lambda: Reranker("flashrank"),
        lambda: Reranker("retrieval"),
        lambda: Reranker(Fusion(["embedded", "retrieval"], k=10)),
        lambda: Reranker(Fusion(["embedded", "flashrank"], method="weighted", normalise="zscore")),
        lambda: Reranker(Cascade(["embedded"])),
        lambda: Reranker(Cascade(["embedded", "minilm"], keep=20, patience=5)),
        lambda: Reranker(Fallback("cohere", "minilm", min_scores={"minilm": 0.3})),
        lambda: Reranker(Floor("listwise:x", below=20), after=[partial(fill_budget, budget_tokens=500)]),
        lambda: Reranker(Floor("listwise:x", "minilm")),
        lambda: Reranker(Windowed("minilm", size=100, overlap=20, combine="first")),
        lambda: Reranker(Cached("minilm", ttl_s=60, namespace="tenant")),
        lambda: Reranker(Cached("minilm", MemoryStore(1000))),
        lambda: Reranker(Cached("minilm", DiskStore("/nowhere/scores.db", max_bytes=2**20))),
    ],
)
def test_a_reranker_comes_back_equal(made, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    reranker = made()
    spec = to_spec(reranker)
    again = from_spec(json.loads(json.dumps(spec)))
    assert to_spec(again) == spec
    assert (again.backend.name, again.backend.model) == (reranker.backend.name, reranker.backend.model)
    assert len(again.after) == len(reranker.after)


def test_fingerprints_come_back_equal():
    reranker = Reranker(Cascade([Windowed("embedded"), Fusion(["retrieval", "embedded"])], keep=3))
    assert from_spec(to_spec(reranker)).backend.fingerprint == reranker.backend.fingerprint


def test_a_calibration_is_written_whole_and_read_from_a_file(tmp_path):
    backend = Embedded()
    curve = Calibration(
        method="platt", scale=backend.scale, fingerprint=backend.fingerprint, corpus="help", slope=9.0, intercept=-4.0
    )
    curve.save(tmp_path / "help.json")
    reranker = Reranker(Calibrated(backend, curve))
    inline = from_spec(json.loads(json.dumps(to_spec(reranker))))
    by_file = from_spec({"backend": {"calibrated": {"backend": "embedded", "calibrator": str(tmp_path / "help.json")}}})
    expected = [hit.score for hit in reranker.rerank(QUERY, TEXTS, min_score=0.1)]
    assert expected
    for again in (inline, by_file):
        assert [hit.score for hit in again.rerank(QUERY, TEXTS, min_score=0.1)] == expected
        assert to_spec(again) == to_spec(reranker)
    with pytest.raises(SpecError, match=r"backend\.calibrated: it needs 'calibrator'"):
        from_spec({"backend": {"calibrated": {"backend": "embedded"}}})


def test_a_store_on_disk_is_written_by_its_path(tmp_path):
    path = str(tmp_path / "scores.db")
    for store in (path, DiskStore(path)):
        spec = to_spec(Reranker(Cached("embedded", store)))
        assert spec == {"backend": {"cached": {"backend": "embedded", "store": path}}}
        assert from_spec(spec).rerank(QUERY, TEXTS)[0].document == TEXTS[1]


def test_a_deployment_changes_its_pipeline_in_a_file(tmp_path):
    yaml, as_json = tmp_path / "pipeline.yaml", tmp_path / "pipeline.json"
    yaml.write_text(
        "backend:\n  cascade:\n    stages: [embedded, minilm]\n    keep: 20\ndeadline_s: 2\n", encoding="utf-8"
    )
    as_json.write_text(json.dumps(WHOLE), encoding="utf-8")
    assert from_spec(yaml).backend.keep == (20,)
    assert to_spec(from_spec(str(as_json))) == WHOLE


def test_the_spec_that_is_given_stays_as_it_was():
    before = json.dumps(WHOLE)
    from_spec(WHOLE)
    assert json.dumps(WHOLE) == before


def test_the_example_in_the_docstring_is_one():
    yaml = pytest.importorskip("yaml")
    declared = yaml.safe_load(inspect.getdoc(rerankx.spec).partition("\n\n")[2])
    assert from_spec(declared).backend.stages[1].min_scores == {
        "cross-encoder:cross-encoder/ms-marco-MiniLM-L6-v2": 0.3
    }


def test_a_threshold_goes_by_the_name_that_is_declared():
    declared = {"backends": ["embedded", {"minilm": {"max_tokens": 100}}], "min_scores": {"minilm": 0.3}}
    assert list(from_spec({"backend": {"fallback": declared}}).backend.min_scores.values()) == [0.3]


def test_a_fallback_may_stand_at_the_top():
    reranker = from_spec({"backend": "minilm", "fallback": ["embedded"]})
    assert to_spec(reranker) == {"backend": {"fallback": {"backends": ["minilm", "embedded"]}}}


def test_a_spec_that_is_changed_later_changes_nothing():
    spec = {"backend": {"jina-api": {"extra": {"a": [1]}}}}
    reranker = from_spec(spec)
    spec["backend"]["jina-api"]["extra"]["a"].append(2)
    assert to_spec(reranker) == {"backend": {"jina-api": {"extra": {"a": [1]}}}}
    to_spec(reranker)["backend"]["jina-api"]["extra"]["a"].append(3)
    assert to_spec(reranker) == {"backend": {"jina-api": {"extra": {"a": [1]}}}}


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_text('{"backend": "embedded"}', encoding="utf-8-sig")
    assert to_spec(from_spec(tmp_path / "a.json")) == {"backend": "embedded"}


def test_a_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_bytes("backend: café".encode("latin-1"))
    with pytest.raises(SpecError, match=r"a\.yaml is not UTF-8"):
        from_spec(tmp_path / "a.yaml")


# What is wrong, and where


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({}, 'a spec needs a "backend"'),
        ({"backnd": "embedded"}, "backnd: not known here; did you mean 'backend'?"),
        ({"backend": "embeded"}, "backend: no backend named 'embeded'; did you mean 'embedded'?"),
        ({"backend": 3}, "backend: expected a name or"),
        ({"backend": {"embedded": {}, "minilm": {}}}, "backend: expected a name or .* not a mapping of 2 names"),
        ({"backend": {"embedded": 3}}, "backend.embedded: expected its options by name, not int"),
        ({"backend": {"embedded": {"max_tokns": 3}}}, "backend.embedded: .*did you mean 'max_tokens'"),
        ({"backend": {"embedded": {"max_tokens": 3}}}, r"backend.embedded: max_tokens must be in \[8, 512\], not 3"),
        ({"backend": "cascade"}, "backend: cascade needs what it is made of"),
        ({"backend": {"cascad": {}}}, "backend.cascad: no backend named 'cascad'; did you mean 'cascade'"),
        ({"backend": {"cascade": {"stages": ["embedded", {"windowed": {"backend": "embedded", "size": 0}}], "keep": 1}}},
         r"backend.cascade.stages\[1\].windowed: size must be at least"),
        ({"backend": {"cascade": {"stages": ["embedded", "nobody"], "keep": 1}}}, r"backend.cascade.stages\[1\]: no backend"),
        ({"backend": {"cascade": {"stages": ["embedded", "minilm"], "kep": 1}}}, "backend.cascade.kep: not known here"),
        ({"backend": {"cascade": {"stages": ["embedded", "minilm"], "keep": 0}}}, r"backend.cascade: keep\[0\] must be at least"),
        ({"backend": {"cached": {"backend": "embedded", "store": {"pth": "x"}}}}, "backend.cached.store.pth: not known here"),
        ({"backend": {"cached": {"backend": {"fallback": {"backends": ["embedded", "minilm"]}}}}}, "backend.cached: .*pointwise"),
        ({"backend": {"fallback": {"backends": ["embedded"]}}}, "backend.fallback: .*at least two"),
        ({"backend": {"floor": {"backend": "embedded", "floor": "nobody"}}}, "backend.floor.floor: no backend"),
        ({"backend": "embedded", "after": "mmr"}, "after: expected a list, not str"),
        ({"backend": "embedded", "after": ["mmmr"]}, r"after\[0\]: no step 'mmmr'; did you mean 'mmr'"),
        ({"backend": "embedded", "after": [{"mmr": {"lambda": 1}}]}, r"after\[0\].mmr.lambda: not known here"),
        ({"backend": "embedded", "after": ["fill_budget"]}, r"after\[0\].fill_budget: .*budget_tokens"),
        ({"backend": "embedded", "after": [{"fill_budget": {"budget_tokens": "9"}}]}, r"after\[0\].fill_budget: budget_tokens"),
        ({"backend": "embedded", "after": [{"mmr": {"balance": 5}}]}, r"after\[0\].mmr: balance"),
        ({"backend": "embedded", "after": [{"drop_near_duplicates": {"embed": "x"}}]}, r"after\[0\].drop_near_duplicates: embed"),
        ({"backend": {"cached": {}}}, "backend.cached: it needs 'backend', a backend"),
        ({"backend": {"fallback": {"min_scores": {}}}}, "backend.fallback: it needs 'backends', a list of backends"),
        ({"backend": {"fallback": {"backends": "minilm"}}}, "backend.fallback.backends: expected a list, not str"),
        ({"backend": {"fallback": {"backends": ["embedded", "minilm"], "min_scores": {"bge": 0.3}}}}, "no backend 'bge' among"),
        ({"backend": "embedded", "fallback": "minilm"}, "fallback: expected a list, not str"),
        ({"backend": "embedded", "fallback": ["nobody"]}, r"fallback\[0\]: no backend"),
        ({"backend": "embedded", "on_error": "ignore"}, "on_error must be"),
        ({"backend": "embedded", "deadline_s": -1}, "deadline_s must be"),
        ({"backend": {"embedded": {"max_tokens": {1, 2}}}}, "backend.embedded.max_tokens: a spec holds text, .* not set"),
        ({"backend": {"cascade": {1: 2}}}, "backend.cascade: a name must be a string"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(spec, told):
    with pytest.raises(SpecError, match=told):
        from_spec(spec)


def test_a_missing_package_stays_a_missing_package_and_tells_where(monkeypatch):
    monkeypatch.setattr("rerankx.registry.find_spec", lambda package: None)
    with pytest.raises(MissingDependencyError, match="not installed here") as raised:
        from_spec({"backend": {"cascade": {"stages": ["retrieval", "minilm"], "keep": 1}}})
    assert raised.value.__notes__ == ["in the spec, at backend.cascade.stages[1]"]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.yaml", "backend: [", "is no YAML"),
        ("a.json", "{", "is no JSON"),
        ("a.yaml", "- embedded", "holds list; a spec is a mapping"),
        ("a.toml", "", "is no .yaml, .yml or .json file"),
        ("a.yaml", "backend: embedded\nbackend: minilm", "'backend' stands twice"),
        ("a.json", '{"backend": {"minilm": {"max_tokens": 1, "max_tokens": 2}}}', "'max_tokens' stands twice"),
        ("a.yaml", "? [a]\n: b", "is no YAML"),
        ("a.yaml", "backend: &a [*a]", "must not hold itself"),
        ("a.json", "[" * 100_000, "must not hold itself"),
        ("a.yaml", "backend: !!python/object/apply:os.getcwd []", "is no YAML"),
    ],
)
def test_a_file_that_holds_no_spec_is_refused(tmp_path, name, text, told):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=told):
        from_spec(tmp_path / name)


def test_what_is_neither_a_mapping_nor_a_path_is_a_type_error():
    with pytest.raises(TypeError, match="a spec is a mapping or the path of a file, not list"):
        from_spec(["embedded"])


# Secrets


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": "sk-secret-0123456789"},
        {"headers": {"Authorization": "Bearer sk-secret-0123456789"}},
        {"base_url": "https://user:sk-secret-0123456789@example.com"},
        {"base_url": "https://example.com/?key=sk-secret-0123456789"},
    ],
)
def test_a_spec_with_a_secret_is_refused_and_not_quoted(options):
    with pytest.raises(SpecError, match="secret") as raised:
        from_spec({"backend": {"jina-api": options}})
    assert "0123456789" not in str(raised.value)


def test_a_key_goes_by_the_name_of_its_variable(monkeypatch):
    spec = {"backend": {"jina-api": {"api_key": {"env": "MY_KEY"}}}}
    with pytest.raises(AuthenticationError, match="the environment has no MY_KEY"):
        from_spec(spec)
    monkeypatch.setenv("MY_KEY", "mine-0123456789")
    assert from_spec(spec).backend._key.reveal() == "mine-0123456789"


def test_the_name_of_a_keys_variable_is_written(monkeypatch):
    monkeypatch.setenv("MY_KEY", "mine-0123456789")
    spec = {"backend": {"tei": {"base_url": "http://localhost:1", "api_key": {"env": "MY_KEY"}}}}
    assert to_spec(from_spec(spec)) == spec


def test_a_key_without_a_variable_cannot_be_written():
    with pytest.raises(SpecError, match=r"backend\.tei: it has a key, and no variable"):
        to_spec(Reranker("tei", base_url="http://localhost:1", api_key="sk-secret-0123456789"))


class Third(FakeBackend):
    """A third party's backend, with a secret of its own name."""

    secrets: ClassVar = {"access": "THIRD_TOKEN"}

    def __init__(self, model="words", *, token=None, options=None, alpha=1):
        super().__init__(name="third", model=model)
        self.given = {"token": token, "options": options}
        self.alpha = alpha

    def __reduce__(self):
        return partial(Third, self.model, **self.given), ()


@pytest.fixture
def third(tmp_path, monkeypatch):
    info = tmp_path / "third-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rerankx.backends]\nthird = test_spec:Third\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setitem(sys.modules, "test_spec", sys.modules[__name__])


@pytest.mark.parametrize(
    "options", [{"token": "plain"}, {"options": {"api_key": "plain"}}, {"options": ["https://u:p@h/"]}]
)
def test_a_secret_of_another_name_and_a_nested_one_are_refused_both_ways(third, options):
    with pytest.raises(SpecError, match=r"backend\.third\.\w+.*secret"):
        from_spec({"backend": {"third": options}})
    with pytest.raises(SpecError, match=r"backend\.third\.\w+.*secret"):
        to_spec(Reranker(Third(**options)))


def test_a_secret_of_another_name_goes_by_its_variable(third, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "mine")
    backend = from_spec({"backend": {"third": {"token": {"env": "MY_TOKEN"}}}}).backend
    assert backend.given["token"] == "mine"


def test_what_a_backend_pickles_by_is_taken_whole_or_refused(third, monkeypatch):
    monkeypatch.setattr(Third, "__reduce__", lambda self: (partial(Third), ("other",)))
    assert to_spec(Reranker(Third())) == {"backend": "third:other"}
    monkeypatch.setattr(Third, "__reduce__", lambda self: (partial(Third), (), {"alpha": 7}))
    with pytest.raises(SpecError, match="does not tell how it was made"):
        to_spec(Reranker(Third()))


def test_a_class_of_your_own_over_a_wrapper_is_not_written_as_the_wrapper():
    class Mine(Cascade):
        pass

    with pytest.raises(SpecError, match="Mine is not registered"):
        to_spec(Reranker(Mine(["embedded"])))


def test_a_threshold_that_would_name_two_backends_is_refused():
    with pytest.raises(SpecError, match="two of the backends are the same"):
        to_spec(Reranker(Fallback("embedded", "minilm", "cross-encoder", min_scores={"minilm": 0.3})))


def test_a_key_is_not_written():
    assert "0123456789" not in json.dumps(to_spec(Reranker("cohere", api_key="sk-secret-0123456789")))


# What a spec cannot hold


class Mine:
    get, put = dict, print


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Reranker(on_ranking=print), "on_ranking: a function has no place"),
        (lambda: Reranker(after=[lambda ranking, top_n: ranking]), r"after\[0\]: a function of your own"),
        (lambda: Reranker(after=[partial(mmr, embed=print)]), r"after\[0\].mmr.embed: a spec holds"),
        (lambda: Reranker(FakeBackend()), "backend: FakeBackend is not registered as 'fake'"),
        (lambda: Reranker(Fallback("embedded", FakeBackend())), r"backend.fallback.backends\[1\]: FakeBackend"),
        (lambda: Reranker("listwise", llm=lambda messages: ""), "backend"),
        (lambda: Reranker("jina-api", headers={"X-Team": "search"}), "backend.*headers"),
        (lambda: Reranker(Cached("embedded", Mine())), "backend.cached.store: a spec holds"),
    ],
)  # fmt: skip
def test_code_and_objects_have_no_place_in_a_spec(make, told):
    with pytest.raises(SpecError, match=told):
        to_spec(make())


def test_only_a_reranker_is_written():
    with pytest.raises(TypeError, match=r"to_spec takes a rerankx.Reranker, not FakeBackend"):
        to_spec(FakeBackend())


def test_every_wrapper_and_every_option_of_it_can_be_declared():
    from rerankx.spec import _WRAPPERS

    classes = {
        "calibrated": Calibrated,
        "cached": Cached,
        "cascade": Cascade,
        "fallback": Fallback,
        "floor": Floor,
        "fusion": Fusion,
        "windowed": Windowed,
    }
    assert _WRAPPERS.keys() == classes.keys()
    for name, cls in classes.items():
        assert _WRAPPERS[name].kind is cls
        assert cls.name == name
    assert {rerankx._HOME_OF[cls.__name__] for cls in classes.values()} == {cls.__module__ for cls in classes.values()}


def test_a_model_is_written_by_the_name_that_people_know_it_by():
    assert to_spec(Reranker(Cascade(["bge", "cross-encoder:BAAI/bge-reranker-base"], keep=5)))["backend"] == {
        "cascade": {"stages": ["bge", "bge"], "keep": [5]}
    }
    assert to_spec(Reranker("minilm", max_tokens=100)) == {"backend": {"minilm": {"max_tokens": 100}}}
