import pytest

from tests.upstream.fakes import RecordingSink, RecordingUpstream


@pytest.fixture
def target() -> RecordingUpstream:
    return RecordingUpstream()


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()
