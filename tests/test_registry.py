import logging
import sys

import pytest

from rerankx import MissingDependencyError, Reranker, UnknownBackendError, registry
from rerankx.registry import BUILT_IN, Entry, Listed, presets
from rerankx.testing import FakeBackend


class Shelf(FakeBackend):
    """What an entry finds: a backend with a model and one option."""

    def __init__(self, model: str = "standard", *, depth: int = 1) -> None:
        super().__init__(name="shelf", model=model)
        self.depth = depth


class Plain(FakeBackend):
    """A backend with neither model nor options."""

    def __init__(self) -> None:
        super().__init__(name="plain")


class Loose(FakeBackend):
    """A backend that takes whatever comes."""

    def __init__(self, **anything: object) -> None:
        super().__init__(name="loose")
        self.anything = anything


NOT_A_BACKEND = "just a string"
HERE = __name__


@pytest.fixture
def built_in(monkeypatch):
    """Put entries of ours in place of the real ones."""
    entries = {
        "embedded": Entry(f"{HERE}:Plain", "the default"),
        "shelf": Entry(f"{HERE}:Shelf", "a shelf"),
        "plain": Entry(f"{HERE}:Plain", "plain"),
        "loose": Entry(f"{HERE}:Loose", "takes anything"),
        "tall": Entry(f"{HERE}:Shelf", "an alias", model="tall-v2"),
        "absent": Entry(
            "no_such_module:Absent", "cannot be had", requires=("json", "no_such_a", "no_such_b"), extra="absent"
        ),
        "base": Entry("no_such_module:Base", "cannot be had", requires=("no_such_a",)),
    }
    monkeypatch.setattr(registry, "BUILT_IN", entries)
    monkeypatch.setattr(registry, "presets", dict)
    return entries


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Return a function that installs the metadata of a distribution with one entry point, as pip leaves it."""

    def install(distribution, name, value):
        folder = tmp_path / f"{distribution}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[rerankx.backends]\n{name} = {value}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install


# Names


@pytest.mark.parametrize(
    ("name", "named", "model"),
    [
        ("shelf", {}, "standard"),
        ("shelf:wide", {}, "wide"),
        ("shelf", {"model": "wide"}, "wide"),
        ("shelf:wide", {"model": "wide"}, "wide"),
        ("shelf:org/name:latest", {}, "org/name:latest"),
        ("shelf:C:\\models\\wide", {}, "C:\\models\\wide"),
        ("tall", {}, "tall-v2"),
        ("tall:tall-v3", {}, "tall-v3"),
        ("tall", {"model": "tall-v3"}, "tall-v3"),
    ],
)
def test_a_name_may_carry_a_model(built_in, name, named, model):
    backend = registry.create(name, **named)
    assert type(backend) is Shelf
    assert backend.model == model


def test_two_models_are_one_too_many(built_in):
    with pytest.raises(ValueError, match="two models given: 'wide' in the name, 'tall' as model="):
        registry.create("shelf:wide", model="tall")


def test_a_colon_without_a_model_is_refused(built_in):
    with pytest.raises(ValueError, match="'shelf:' names no model after the colon; write 'shelf' for its default"):
        registry.create("shelf:")


@pytest.mark.parametrize("name", ["shlf", "shlf:wide"])
def test_an_unknown_name_names_the_nearest_and_all(built_in, install, name):
    install("shouter", "shout", f"{HERE}:Plain")
    with pytest.raises(UnknownBackendError, match="no backend named 'shlf'; did you mean 'shelf'") as caught:
        registry.create(name)
    assert caught.value.known == tuple(sorted([*built_in, "shout"]))


def test_a_reranker_finds_its_backend_by_name(built_in):
    reranker = Reranker("shelf:wide", depth=3)
    assert (reranker.backend.model, reranker.backend.depth) == ("wide", 3)
    assert Reranker("shelf", model="wide").backend.model == "wide"


def test_the_default_is_embedded(built_in):
    assert type(Reranker().backend) is Plain


# Options


def test_options_reach_the_constructor(built_in):
    assert registry.create("shelf", depth=7).depth == 7


def test_a_wrong_option_names_the_nearest_and_all(built_in):
    said = "backend 'shelf' has no option 'dept'; did you mean 'depth'?; it has: depth, model"
    with pytest.raises(TypeError) as caught:
        registry.create("shelf", dept=7)
    assert str(caught.value) == said


@pytest.mark.parametrize("how", [lambda: registry.create("plain:m"), lambda: registry.create("plain", model="m")])
def test_a_model_for_a_backend_that_has_none_is_a_wrong_option(built_in, how):
    with pytest.raises(TypeError, match="backend 'plain' has no option 'model'; it has: none"):
        how()


def test_a_constructor_that_takes_anything_gets_anything(built_in):
    assert registry.create("loose:m", dept=7).anything == {"model": "m", "dept": 7}


def test_an_error_of_the_constructor_is_not_hidden(built_in, monkeypatch):
    monkeypatch.setattr(Shelf, "__init__", lambda self, depth: [][depth])
    with pytest.raises(IndexError):
        registry.create("shelf", depth=1)


# What is not installed


def test_a_missing_package_says_which_and_what_installs_it(built_in):
    with pytest.raises(MissingDependencyError) as caught:
        registry.create("absent")
    assert (caught.value.backend, caught.value.packages) == ("absent", ("no_such_a", "no_such_b"))
    assert caught.value.command == "pip install 'rerankx[absent]'"


def test_what_the_base_install_brings_is_installed_by_it(built_in):
    with pytest.raises(MissingDependencyError, match=r"not installed here: pip install rerankx$"):
        registry.create("base")


def test_a_broken_package_is_not_a_missing_one(built_in, monkeypatch, tmp_path):
    (tmp_path / "broken_shelf.py").write_text("import no_such_module_inside\n")
    monkeypatch.syspath_prepend(tmp_path)
    built_in["broken"] = Entry("broken_shelf:Shelf", "broken", requires=("broken_shelf",))
    with pytest.raises(ModuleNotFoundError, match="no_such_module_inside") as caught:
        registry.create("broken")
    assert not isinstance(caught.value, MissingDependencyError)


# available()


def test_available_lists_all_the_default_first_and_what_is_missing(built_in, install):
    install("shouter", "shout", "no_such_module:Shout")
    listed = registry.available()
    assert [line.name for line in listed] == ["embedded", "absent", "base", "loose", "plain", "shelf", "shout", "tall"]
    assert listed[0] == Listed("embedded", "the default")
    assert listed[1] == Listed("absent", "cannot be had", ("no_such_a", "no_such_b"), "pip install 'rerankx[absent]'")
    assert listed[6] == Listed("shout", "from shouter")


def test_available_imports_no_backend(built_in):
    sys.modules.pop("colorsys", None)
    built_in["lazy"] = Entry("colorsys:Lazy", "a module that nothing else imports")
    registry.available()
    assert "colorsys" not in sys.modules


# Plug-ins


def test_an_entry_point_is_a_backend(built_in, install):
    install("my_dist", "mine", f"{HERE}:Shelf")
    backend = Reranker("mine:wide", depth=2).backend
    assert (type(backend), backend.model, backend.depth) == (Shelf, "wide", 2)


def test_an_entry_point_cannot_replace_a_built_in_backend(built_in, install, caplog):
    install("impostor", "embedded", f"{HERE}:Shelf")
    assert type(Reranker("embedded").backend) is Plain
    assert [line.summary for line in registry.available() if line.name == "embedded"] == ["the default"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "backend 'embedded' of impostor is ignored: that name is built in" in caplog.text


def test_two_distributions_with_one_name_are_not_chosen_between(built_in, install):
    install("one", "mine", f"{HERE}:Shelf")
    install("other", "mine", f"{HERE}:Plain")
    with pytest.raises(ValueError, match="several installed packages offer a backend 'mine': one, other"):
        registry.create("mine")
    assert Listed("mine", "from one, other") in registry.available()


def test_an_entry_point_must_be_a_backend_class(built_in, install):
    install("my_dist", "mine", f"{HERE}:NOT_A_BACKEND")
    with pytest.raises(TypeError, match=r"entry point 'mine' of my_dist is not a rerankx\.Backend class"):
        registry.create("mine")


# The real table


@pytest.mark.parametrize("name", [*BUILT_IN, *presets()])
def test_each_built_in_entry_is_well_formed(name):
    entry = {**BUILT_IN, **presets()}[name]
    module, colon, attribute = entry.target.partition(":")
    assert module.startswith("rerankx.")
    assert colon
    assert attribute.isidentifier()
    assert entry.summary
    assert ":" not in name
    assert all(package.isidentifier() for package in entry.requires)


@pytest.mark.parametrize("name", ["cascade", "fusion:x", "cached"])
def test_a_wrapper_is_no_name_and_the_error_says_what_to_pass(name):
    with pytest.raises(ValueError, match=r"is made of other backends: pass a rerankx\.C|pass a rerankx\.Fusion"):
        registry.create(name)
