import pytest
from backend_stage import MADE, WAYS, alone
from fault_stage import FaultStage


@pytest.fixture(scope="module")
def stage():
    with FaultStage() as stage:
        yield stage


@pytest.fixture(autouse=True, scope="module")
def nothing_of_the_machine():
    """Neither keys nor proxies of whoever runs the tests; and short waits between tries."""
    with pytest.MonkeyPatch.context() as patch:
        alone(patch)
        yield


@pytest.fixture(autouse=True)
def everything_is_closed():
    yield
    while MADE:
        MADE.pop().close()


@pytest.fixture(params=WAYS.values(), ids=list(WAYS))
def rank(request):
    """Returns `rank(reranker, query, documents)`, by the sync or by the async way."""
    return request.param
