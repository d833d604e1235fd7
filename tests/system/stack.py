"""What `make stack` runs: Redis, two replicas and Nginx on this machine, until Ctrl-C.

PORT chooses Nginx's port (8080), INSTANCE_PATH the folder for all state (instance/stack). Both replicas get the other
settings that the environment holds.
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path

from api.settings import Settings
from tests.system.processes import PROJECT, NotReady, Stack

OWN = {"PORT", "HOST", "INSTANCE_PATH", "REDIS_URL", "TRUSTED_PROXIES"}  # what the stack itself decides


def main() -> int:
    """Run the stack until SIGINT or SIGTERM. Returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(os.environ.get("INSTANCE_PATH", PROJECT / "instance" / "stack")).absolute()
    known = {field.name.upper() for field in dataclasses.fields(Settings)} - OWN
    passed_on = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") in known}
    try:
        with Stack(folder, replicas=2, port=int(os.environ.get("PORT", "8080")), **passed_on) as stack:
            print(_banner(stack), flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("Ended.", flush=True)
    except NotReady as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _banner(stack: Stack) -> str:
    replicas = "\n".join(f"  replica  {replica.url}" for replica in stack.replicas)
    return (
        f"Walnut behind Nginx: http://localhost:{stack.nginx.port}\n{replicas}\n"
        f"  redis    {stack.redis.url}\n  state    {stack.folder}\nCtrl-C ends all of it."
    )


if __name__ == "__main__":
    sys.exit(main())
