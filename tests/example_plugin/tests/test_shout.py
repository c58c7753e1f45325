from rerankx_shout import Shout

from rerankx.testing import BackendContract


class TestShout(BackendContract):
    relevant = "STOP! This is LOUD!"
    irrelevant = "hush, this is quiet"

    def make(self):
        return Shout()

    def variants(self):
        return [Shout("big"), Shout(gain=2.0)]
