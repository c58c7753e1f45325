"""Serve a GGUF of a cross-encoder by llama.cpp's own server: `python llamacpp_serve.py FILE PORT [KEY]`. Ends by SIGTERM."""

import signal
import sys

import xllamacpp

path, port, *keys = sys.argv[1:]
given = xllamacpp.CommonParams()
given.model.path = path
given.hostnames, given.port, given.api_keys = ["127.0.0.1"], int(port), keys
given.embedding = True
given.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
given.n_parallel = 1
# Its threads wait by spinning: on a busy machine more than one is ten times slower.
given.cpuparams.n_threads = given.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(given)
signal.pause()
