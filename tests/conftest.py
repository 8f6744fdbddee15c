"""What all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Machines are shared and noisy: an example that was slow once says nothing about the code.
settings.register_profile("matriarch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("matriarch")
