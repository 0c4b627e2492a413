"""The parts of a run. Each sets up what it needs, and adds its figures to the report."""
