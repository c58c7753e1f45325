from importlib.util import find_spec

# These tests belong to a distribution of its own: `tests/test_plugin.py` installs it and runs them there.
collect_ignore = [] if find_spec("rerankx_shout") else ["tests"]
