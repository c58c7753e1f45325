"""What every backend promises, for those that ask a server: real requests, a server that counts words in common."""

import pytest
from backend_stage import SDK, made, spoken
from fault_stage import FaultStage

from rerankx.interface import Backend, Scale
from rerankx.testing import BackendContract

SECRET = "sk-in-the-environment-4711"


class NetworkContract(BackendContract):
    target: str
    variable: str | None
    on_deadline = "error"
    secret = SECRET

    @pytest.fixture(autouse=True)
    def _served(self, monkeypatch):
        with FaultStage() as stage:
            self.url = stage.address(dialect=spoken(self.target))
            if self.variable is not None:
                monkeypatch.setenv(self.variable, SECRET)
            yield

    def make(self) -> Backend:
        return made(self.target, self.url, api_key=None)

    def variants(self) -> list[Backend]:
        if self.target == SDK:
            return [
                made(self.target, self.url, api_key=None, **more)
                for more in ({"model": "x"}, {"max_tokens_per_doc": 9})
            ]
        more = [
            {"model": "x"},
            {"extra": {"more": 1}},
            {"scale": Scale.similarity(0, 2)},
            {"base_url": self.url + "/other"},
        ]
        return [made(self.target, **{"url": self.url, "api_key": None, **options}) for options in more]


class TestSDK(NetworkContract):
    target, variable = SDK, "CO_API_KEY"


class TestTEI(NetworkContract):
    target, variable = "tei", None


class TestVoyage(NetworkContract):
    target, variable = "voyage", "VOYAGE_API_KEY"


class TestPinecone(NetworkContract):
    target, variable = "pinecone", "PINECONE_API_KEY"


class TestNIM(NetworkContract):
    target, variable = "nim", None


class TestDeepInfra(NetworkContract):
    target, variable = "deepinfra", "DEEPINFRA_API_KEY"
