"""Serve a GGUF of a chat model by llama.cpp's own server: `python smollm2_serve.py FILE PORT CONTEXT`. Ends by SIGTERM."""

import signal
import sys

import xllamacpp

path, port, context = sys.argv[1:]
given = xllamacpp.CommonParams()
given.model.path = path
given.hostnames, given.port = ["127.0.0.1"], int(port)
given.n_ctx, given.n_parallel = int(context), 1
# Its threads wait by spinning: on a busy machine more than one is ten times slower.
given.cpuparams.n_threads = given.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(given)
signal.pause()
