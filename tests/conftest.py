"""What holds for every test: the same random examples in CI, and an environment that is nobody's."""

import os

from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

_TERMINAL = {"CLICOLOR", "COLUMNS", "FORCE_COLOR", "LESS", "LINES", "NO_COLOR", "PAGER"}
# Set here and not in a fixture: libraries read some of these when they are imported, and commands
# that tests start inherit them.
for name in list(os.environ):
    if name.startswith(("GIT_", "HF_", "TVC_")) or name in _TERMINAL:
        del os.environ[name]
os.environ |= {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A. Tester",
    "GIT_AUTHOR_EMAIL": "tester@example.org",
    "GIT_COMMITTER_NAME": "A. Tester",
    "GIT_COMMITTER_EMAIL": "tester@example.org",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TZ": "UTC",
}


def pytest_terminal_summary(terminalreporter):
    """Print what tests measured and recorded, wherever they ran."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
