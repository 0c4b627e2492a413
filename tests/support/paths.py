"""Where the checkout's files are, for tests that read documents, manifests and vectors."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
VECTORS = TESTS / "vectors"
