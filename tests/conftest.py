"""What several test modules share: a collection server on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.fake import FakeCollector


@pytest.fixture
async def adobe() -> AsyncIterator[FakeCollector]:
    """A fake collection server, listening; gone with the test, whatever hangs."""
    async with FakeCollector() as collector:
        yield collector
