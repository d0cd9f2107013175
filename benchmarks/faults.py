"""Count how runs on a small demo end when something breaks.

INPUT   none: the demo is written to --work_path and used again; delete it after a change of the code
OUTPUT  <save_path>/faults.csv   one row per try: part, step, case, outcome, detail (all text)
        <save_path>/faults.md    the table: number of tries by part, step and outcome
Parts
    kill    kill every script (SIGKILL, its whole process group) at --n random moments and start it again:
            are the bytes those of an undisturbed run?
    disk    run every script on a disk that runs full, and on a read-only disk; needs the right to mount
    mutate  break every input file of every step in --n ways: cut off, bytes flipped, emptied, another file's
            content, rows shuffled, columns dropped, …
    two     two processes on one root at once
Outcomes
    one clear line  exit 2, one line that starts with 'error: '; a training refuses a whole root that was changed
                    after the steps wrote it
    left out        exit 0, one line and an entry in status.json; the other sections are as undisturbed
    ok              exit 0, outputs as undisturbed
    valid           exit 0, other outputs, from an input that cannot be distinguished from a right one (a bit of a
                    picture, a count, a measured position), or from a tissue mask that a person may have corrected,
                    with a line
    traceback       a bug: none is wanted
    hang            still running after 60 s (a training 300 s; parts kill, disk and two 600 s): none is wanted
    lost file       an output of another section is missing: none is wanted
    silently wrong  other outputs without a message: none is wanted

    python benchmarks/faults.py --part mutate --work_path /dev/shm/faults --n 30
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
import importlib
import os

if __name__ == "__main__":  # before NumPy and Torch are imported: a process forked beside their threads can deadlock
    THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    os.environ |= dict.fromkeys(THREADS, "1")
    os.environ["PYTHONWARNINGS"] = "ignore"

import pandas as pd

from benchmarks.fault_parts.server import warm_up
from common.io import atomic_path, write_table
from common.layout import REPOSITORY

OUTCOMES = ("one clear line", "left out", "ok", "valid", "traceback", "hang", "lost file", "silently wrong")
PARTS = ("kill", "disk", "mutate", "two")
COLUMNS = ["part", "step", "case", "outcome", "detail"]


def table(rows: pd.DataFrame) -> str:
    """The counts in Markdown: one line per part ("all"), then one per step."""
    lines = ["| part | step | tried | " + " | ".join(OUTCOMES) + " |", "| --- " * (len(OUTCOMES) + 3) + "|"]
    for part, group in rows.groupby("part", sort=False):
        for step, one in [("all", group), *group.groupby("step", sort=False)]:
            counts = one["outcome"].value_counts()
            cells = [str(counts.get(name, 0) or "") for name in OUTCOMES]
            lines.append(f"| {part} | {step} | {len(one)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def save(folder: Path, part: str, only: list[str], new: list[dict]) -> pd.DataFrame:
    """Replace the stored rows of this part (and of the steps `only`) with the new ones; write and return all rows."""
    file = folder / "faults.csv"
    rows = pd.read_csv(file, keep_default_na=False) if file.is_file() else pd.DataFrame(columns=COLUMNS)
    replaced = (rows["part"] == part) & (rows["step"].isin(only) if only else True)
    rows = pd.concat([rows[~replaced], pd.DataFrame(new).assign(part=part)[rows.columns]])
    rows = rows.sort_values("part", key=lambda parts: parts.map(PARTS.index), kind="stable")
    write_table(file, rows)
    with atomic_path(file.with_suffix(".md")) as target:
        target.write_text(table(rows))
    return rows


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, required=True, help="see above")
    parser.add_argument("--work_path", required=True, help="folder of the stack and the tries; /dev/shm is fast")
    parser.add_argument("--save_path", default=str(REPOSITORY / "benchmarks" / "results"), help="folder of the tables")
    parser.add_argument("--step", action="append", default=[], help="only this script (repeatable)")
    parser.add_argument("--n", type=int, default=None,
                        help="tries per script (kill, default 20), per file (mutate, 30) or per pair (two, 3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random draw")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    warm_up()
    part = importlib.import_module(f"benchmarks.fault_parts.{args.part}")
    n = args.n or {"kill": 20, "mutate": 30, "two": 3}.get(args.part, 1)
    new, folder = [], Path(args.save_path)
    for row in part.tries(Path(args.work_path).resolve(), n, args.seed, args.step):
        if new and new[-1]["step"] != row["step"]:
            save(folder, args.part, args.step, new)  # finished steps are kept if the rest is stopped
        new.append({key: str(value).replace(str(args.work_path), "WORK")[:400] for key, value in row.items()})
        if row["outcome"] in OUTCOMES[-4:]:
            print(f"{row['step']}, {row['case']}: {row['outcome']}: {row['detail']}", flush=True)
    rows = save(folder, args.part, args.step, new)
    print(table(rows[rows["part"] == args.part]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
