"""A flow that says it ran: what `test_serve.py` serves."""

import os
import sys
import time
from pathlib import Path

from unclip.prefect_server import apply_environment, start_server

if __name__ == "__main__":  # before Prefect reads its settings
    server = start_server(Path(sys.argv[1]))
    apply_environment(Path(sys.argv[1]), server.wait())

from prefect import flow


@flow
def tiny(store: str, sleep_s: float) -> None:
    """Append when and by which process it ran, and go on for a while."""
    from flows.interrupt import on_interrupt

    with on_interrupt(), (Path(store) / "fired").open("a") as log:
        log.write(f"{time.time()} {os.getpid()}\n")
        log.flush()
        time.sleep(sleep_s)


if __name__ == "__main__":
    from flows.serve import serve

    serve(tiny, "tiny", 2.0, Path(sys.argv[1]), {"store": sys.argv[1], "sleep_s": float(sys.argv[2])})
