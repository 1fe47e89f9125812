"""The verbs that ask what became of the data, and the one that fits an aesthetic head."""

import json
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from flows.cli import FILE, STORE, File, Json, Name, StoreDir, app
from flows.terminal import out, table


@app.command(rich_help_panel="Data")
def funnel(name: Name, store: StoreDir = STORE, file: File = FILE, as_json: Json = False) -> None:
    """Rows in, dropped by each reason, and kept, from the source to select. Example: unclip funnel shapes"""
    from flows.losses import newest_losses, print_funnel
    from flows.naming import asked_of
    from unclip.store import open_store

    with asked_of(made := open_store(store), name, file):
        steps, _ = newest_losses(made, name)
    if as_json:
        print(json.dumps([step.as_dict() for step in steps], indent=1))
    else:
        print_funnel(name, steps)


@app.command(rich_help_panel="Data")
def dropped(
    name: Name,
    reason: Annotated[str | None, typer.Option(help="Only of this reason, such as leak", show_default=False)] = None,
    num: Annotated[int, typer.Option("-n", min=1, help="How many to print")] = 20,
    to: Annotated[Path | None, typer.Option("--out", help="Write all of them here as CSV", show_default=False)] = None,
    sheets: Annotated[Path | None, typer.Option(help="Folder for a PNG a reason", show_default=False)] = None,
    store: StoreDir = STORE,
    file: File = FILE,
    as_json: Json = False,
) -> None:
    """The rows refused or dropped, and what each was too near to. Example: unclip dropped shapes --reason leak"""
    from flows.losses import newest_losses, write_csv
    from flows.naming import asked_of
    from unclip.store import open_store

    if sum((to is not None, sheets is not None, as_json)) > 1:
        raise ValueError("--out, --sheets and --json each say where the rows go: give one of them")
    with asked_of(made := open_store(store), name, file):
        steps, losses = newest_losses(made, name)
    count = sum(step.dropped for step in steps if reason in (None, step.reason))
    reasons = list(dict.fromkeys(step.reason for step in steps))
    if reason is not None and reason not in reasons:
        raise ValueError(f"--reason must be one of {', '.join(reasons)}; got {reason!r}")
    if sheets is not None:
        from unclip.report.dropped_sheet import write_sheets

        print("\n".join(map(str, write_sheets(losses, sheets, reason=reason))))
    elif to is not None:
        print(f"{write_csv(losses, to, reason)} rows in {to}")
    elif as_json:
        print(json.dumps([row.as_dict() for row in losses.rows(reason)], indent=1))
    else:
        rows = [[row.reason, row.file or row.key or "", row.said] for row in islice(losses.rows(reason), num)]
        more = f"and {count - num:,} more: -n, --json or --out FILE.csv" if count > num else ""
        out.print(table(f"{name}: {count:,} rows", ["reason", "row", "detail"], rows), more)


@app.command("fit-aesthetic", rich_help_panel="Data")
def fit_aesthetic(
    ratings: Annotated[Path, typer.Argument(help="CSV: rating and key, file or sha256", show_default=False)],
    dump: Annotated[Path, typer.Option(help="What `unclip embed` made of the rated images", show_default=False)],
    target: Annotated[Path, typer.Option("--out", help="Folder for the head", show_default=False)],
    as_json: Json = False,
) -> None:
    """Fit an aesthetic head to ratings. Example: unclip fit-aesthetic ratings.csv --dump dump --out head"""
    from dataclasses import asdict

    from unclip.data.aesthetic import fit_head, save_head
    from unclip.data.ratings import read_rated

    rated = read_rated(ratings, dump)
    head = fit_head(rated.images, rated.ratings, rated.info)
    save_head(head, target)
    record = asdict(head.record) | {"num_unknown": rated.num_unknown}
    if as_json:
        print(json.dumps(record, indent=1))
        return
    found = head.record.held_out
    print(
        f"{target}: {head.record.num_rated} rated images; of {found['num_rows']} held out, correlation "
        f"{found['pearson']:.3f}, of ranks {found['spearman']:.3f}, error {found['rmse']:.3f} (ratings' own spread "
        f"{head.record.rating_std:.3f})" + (f"; {rated.num_unknown} not in the dump" if rated.num_unknown else "")
    )
