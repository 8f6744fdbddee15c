"""What all tests share."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared and noisy: an example that was slow once says nothing about the code.
settings.register_profile("matriarch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("matriarch")

FAILURE = 12_000  # characters; its end says most


class AtOnce:
    """Prints each failure when it happens: a run that is ended from outside has no summary."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.ensure_newline()
            self._terminal.section(f"{report.nodeid} ({report.when})", sep="-")
            self._terminal.write_line(report.longreprtext[-FAILURE:])


@pytest.hookimpl(trylast=True)  # the reporter has to be there
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if isinstance(terminal, pytest.TerminalReporter):
        config.pluginmanager.register(AtOnce(terminal), "failures-at-once")
