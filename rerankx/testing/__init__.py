"""For the tests of others: `FakeBackend`, a double with no model, and `BackendContract`, one test per promise.

Running the contract takes pytest, importing it does not.
"""

from rerankx.testing.contract import BackendContract
from rerankx.testing.fake import Call, FakeBackend, word_overlap

__all__ = ["BackendContract", "Call", "FakeBackend", "word_overlap"]
