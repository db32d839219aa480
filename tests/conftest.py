"""How the tests are dealt out to several processes (`pytest -n 4 --dist loadscope`)."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Directories whose tests share something costly: a cluster, an API server, a broker. One process runs them all.
#: The longest begin first. Everything else is dealt out file by file.
_SHARED = ("e2e", "integration", "apiserver", "cluster")


def _scope(nodeid: str) -> str:
    """What goes to one process, of an id such as tests/e2e/test_people.py::test_a."""
    path = nodeid.partition("::")[0]
    directory = path.split("/")[1]
    return directory if directory in _SHARED else path


class _Scheduling(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return _scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling:
    return _Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {scope: place for place, scope in enumerate(_SHARED)}
    items.sort(key=lambda item: order.get(_scope(item.nodeid), len(_SHARED)))
