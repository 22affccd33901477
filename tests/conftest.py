"""How the tests run: chance is seeded, so that every run sees the same histories."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "seeded", derandomize=True, database=None, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
)
settings.register_profile("deep", parent=settings.get_profile("seeded"), derandomize=False, max_examples=2_000, print_blob=True)
settings.load_profile(os.environ.get("POWER_AGENT_HYPOTHESIS", "seeded"))
