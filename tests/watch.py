"""What `make watch` runs: the quick tests, again whenever a file changes."""

import subprocess
import sys
import time
from pathlib import Path

WATCHED = ("api", "tests")


def newest() -> float:
    """Return when the youngest Python file changed."""
    return max(path.stat().st_mtime for folder in WATCHED for path in Path(folder).rglob("*.py"))


def main() -> None:
    """Run until Ctrl-C."""
    seen = 0.0
    while True:
        if (now := newest()) > seen:
            seen = now
            subprocess.run([sys.executable, "-m", "pytest", "-q", "tests", "--ignore=tests/system"], check=False)
        time.sleep(0.5)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(0)
