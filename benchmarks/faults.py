"""What happens to a stack when something breaks? Counts of how tries end, on a small demo.

INPUT   none: the demo is made in --work_path (kept; delete it after a change of the code)
OUTPUT  <save_path>/faults.csv   a row a try: part, step, case, outcome, detail
        <save_path>/faults.md    the table: how many tries of a part and step ended how
Parts
    kill    every script killed (SIGKILL, its whole process group) at --n random moments and started again: same bytes as undisturbed?
    disk    every script on a disk that runs full, and on one that may only be read; needs the right to mount
    mutate  every input file of every step broken in --n ways: cut off, bytes flipped, emptied, another file's content, rows shuffled, columns dropped, …
    two     two processes on one root at once
Outcomes
    one clear line      exit 2, one line that starts with 'error: '; a training refuses a root as a whole that is not as the steps left it
    left out            exit 0, one line and an entry in status.json; the others are as undisturbed
    ok                  exit 0, outputs as undisturbed
    valid               exit 0, other outputs, from an input that nothing distinguishes from a right one: a bit of a picture, a count, a measured position;
                        or from a tissue mask that a person may have corrected, with a line
    traceback, hang (over 60 s), lost file (an output of another section is missing), silently wrong (other outputs without a word): none is wanted

    python benchmarks/faults.py --part mutate --work_path /dev/shm/faults --n 30
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
import importlib
import os

if __name__ == "__main__":  # before NumPy and Torch are imported: a forked process with their threads may wait for ever
    os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")}
    os.environ["PYTHONWARNINGS"] = "ignore"

import pandas as pd

from benchmarks.fault_parts.server import warm_up
from common.io import atomic_path, write_table
from common.layout import REPOSITORY

OUTCOMES = ("one clear line", "left out", "ok", "valid", "traceback", "hang", "lost file", "silently wrong")
PARTS = ("kill", "disk", "mutate", "two")


def table(rows: pd.DataFrame) -> str:
    """Markdown: a line a part and step, and a part."""
    lines = ["| part | step | tried | " + " | ".join(OUTCOMES) + " |", "| --- " * (len(OUTCOMES) + 3) + "|"]
    for part, group in rows.groupby("part", sort=False):
        for step, one in [("all", group), *group.groupby("step", sort=False)]:
            counts = one["outcome"].value_counts()
            lines.append(f"| {part} | {step} | {len(one)} | " + " | ".join(str(counts.get(name, 0) or "") for name in OUTCOMES) + " |")
    return "\n".join(lines) + "\n"


def save(folder: Path, part: str, only: list[str], new: list[dict]) -> pd.DataFrame:
    """The rows so far: those of this part (and steps) are replaced by the new ones."""
    file = folder / "faults.csv"
    rows = pd.read_csv(file, keep_default_na=False) if file.is_file() else pd.DataFrame(columns=["part", "step", "case", "outcome", "detail"])
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
    parser.add_argument("--work_path", required=True, help="folder for the stack and the tries; /dev/shm is quick")
    parser.add_argument("--save_path", default=str(REPOSITORY / "benchmarks" / "results"), help="where the tables go")
    parser.add_argument("--step", action="append", default=[], help="only this script (repeatable)")
    parser.add_argument("--n", type=int, default=None, help="tries a script (kill: 20), a file (mutate: 30) or a pair (two: 3)")
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
            save(folder, args.part, args.step, new)  # what is done stays if the rest is stopped
        new.append({key: str(value).replace(str(args.work_path), "WORK")[:400] for key, value in row.items()})
        if row["outcome"] in OUTCOMES[-4:]:
            print(f"{row['step']}, {row['case']}: {row['outcome']}: {row['detail']}", flush=True)
    rows = save(folder, args.part, args.step, new)
    print(table(rows[rows["part"] == args.part]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
