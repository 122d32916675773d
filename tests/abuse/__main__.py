"""What abuse costs: `python -m tests.abuse [name…]`. Loopback only; bounded in count and time.

Figures depend on the machine, so nothing here is a test; what must hold anywhere is in tests/faults and tests/web.
CPU is the worker's, user and system, the kernel's work for its sockets included. A good caller asks POST /chat all the
while, before a scripted upstream that answers at once; its delay is told before and meanwhile.
"""

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402
from collections.abc import Callable  # noqa: E402

from tests.abuse import floods, holders  # noqa: E402

SCENES: dict[str, Callable[[], str]] = {**floods.SCENES, **holders.SCENES}


def main() -> None:
    """Play the scenes and tell what they cost."""
    parser = argparse.ArgumentParser(prog="python -m tests.abuse")
    parser.add_argument("names", nargs="*", default=list(SCENES))
    for name in parser.parse_args().names:
        print(f"{name}: {SCENES[name]()}", flush=True)


if __name__ == "__main__":
    main()
