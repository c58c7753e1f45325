import copy
import inspect
import pickle
import re

import pytest

from rerankx import errors
from rerankx.errors import (
    AuthenticationError,
    BackendError,
    BudgetError,
    DeadlineError,
    MissingDependencyError,
    ModelNotFoundError,
    OptionError,
    RateLimitError,
    ReplyError,
    RerankxError,
    SpecError,
    UnknownBackendError,
    did_you_mean,
)

PARENTS = {
    MissingDependencyError: (RerankxError, ImportError),
    UnknownBackendError: (RerankxError, ValueError),
    ModelNotFoundError: (RerankxError,),
    OptionError: (RerankxError, ValueError),
    SpecError: (RerankxError, ValueError),
    BackendError: (RerankxError,),
    AuthenticationError: (BackendError,),
    RateLimitError: (BackendError,),
    DeadlineError: (BackendError,),
    ReplyError: (BackendError,),
    BudgetError: (RateLimitError,),
}


@pytest.mark.parametrize("error", PARENTS)
def test_each_error_has_the_parents_that_callers_catch(error):
    assert error.__bases__ == PARENTS[error]


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = set(re.findall(r"\b\w+Error\b", inspect.getdoc(errors).split("\n\n")[1]))
    assert drawn == {error.__name__ for error in PARENTS} | {"RerankxError", "ImportError", "ValueError"}


def test_a_missing_dependency_says_who_needs_what_and_how_to_get_it():
    error = MissingDependencyError("cohere", ["cohere", "httpx"], "pip install 'rerankx[cohere]'")
    assert str(error) == "'cohere' needs cohere, httpx, not installed here: pip install 'rerankx[cohere]'"
    assert (error.backend, error.packages, error.command) == (
        "cohere",
        ("cohere", "httpx"),
        "pip install 'rerankx[cohere]'",
    )


def test_an_unknown_backend_names_the_nearest_and_all():
    error = UnknownBackendError("embeded", ["flashrank", "embedded"])
    assert str(error) == "no backend named 'embeded'; did you mean 'embedded'?; known: embedded, flashrank"


def test_an_unknown_backend_guesses_nothing_where_nothing_is_near():
    assert str(UnknownBackendError("zzz", ["embedded"])) == "no backend named 'zzz'; known: embedded"


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(
    "error",
    [MissingDependencyError("b", ["p"], "pip install p"), UnknownBackendError("b", ["c"]), ReplyError("not a list")],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_process_boundaries_whole(error, copied):
    twin = copied(error)
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)


def test_did_you_mean_names_the_nearest_word_or_nothing():
    assert did_you_mean("modell", ["mode", "model"]) == "; did you mean 'model'?"
    assert did_you_mean("xyz", ["model"]) == ""
