"""A folder of captioned pictures as a web of our own: serves it on loopback, writes its URL list, runs a command.

python examples/emoji.py FOLDER LIST.csv [COMMAND...]

FOLDER holds `captions.csv` (columns file, caption) and `images/`. Without a command it serves until Ctrl-C. The port
is fixed, since a URL is part of a sample's identity: another port would be another data set.
"""

import argparse
import csv
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line on the terminal for each."""

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def write_list(folder: Path, base: str, out: Path) -> int:
    """Writes the URL list of a folder's captions; the number of rows."""
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as file:
        rows = [(f"{base}/{quote(row['file'])}", row["caption"]) for row in csv.DictReader(file)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("url", "caption"), *rows])
    return len(rows)


def main() -> int:
    """Serves, lists, runs; the command's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("list", type=Path)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not (args.folder / "captions.csv").is_file():
        parser.error(f"{args.folder} has no captions.csv")
    handler = partial(Quiet, directory=str(args.folder / "images"))
    with ThreadingHTTPServer(("127.0.0.1", args.port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{args.port}"
        print(f"{write_list(args.folder, base, args.list)} URLs in {args.list}, served at {base}", file=sys.stderr)
        try:
            return subprocess.call(args.command) if args.command else threading.Event().wait()
        except KeyboardInterrupt:
            return 130
        finally:
            server.shutdown()


if __name__ == "__main__":
    sys.exit(main())
