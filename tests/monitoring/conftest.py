"""promtool, built once; and the project's rules as the file that it reads."""

from __future__ import annotations

import pytest
import yaml

from dev import programs
from dev.host import DevError
from tests.monitoring.engine import Engine, groups


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    try:
        promtool = programs.ensure("promtool")
    except DevError as e:
        pytest.fail(f"no promtool to ask: {e}", pytrace=False)
    file = tmp_path_factory.mktemp("monitoring") / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": groups()}, sort_keys=False))
    return Engine(promtool, file)
