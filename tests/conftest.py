import os


def pytest_configure():
    os.environ.pop("PYTEST_ADDOPTS", None)  # meant for this run, not for those that tests start
