"""How the tests are dealt out to several processes: `pytest -n 3 --dist loadgroup`."""

from __future__ import annotations

from pathlib import Path

import pytest

_HERE = Path(__file__).resolve().parent
#: Directories whose tests share something costly: a cluster, an API server, a broker. One process runs them all.
#: The longest begin first. Everything else is dealt out file by file.
_SHARED = ("e2e", "integration", "apiserver", "cluster")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: _SHARED.index(_group(item)) if _group(item) in _SHARED else len(_SHARED))


def _group(item: pytest.Item) -> str:
    place = item.path.relative_to(_HERE)
    return place.parts[0] if place.parts[0] in _SHARED else str(place)
