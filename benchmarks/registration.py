"""How exact is registration, and does the gate detect its failures? Real sections moved by known transforms.

INPUT   --raw_path FOLDER    her2st/ST-imgs/C/C{2,3,4}/*.jpg (legacy ST) and
                             visium/mousebrain/*/spatial/ (Space Ranger), or
        --root_path ROOT     any dataset root after step 0_2, e.g. the demo's: its overviews are the sections
OUTPUT  <save_path>/registration_<part>.csv   one row per case: the transform drawn, the error, the gate's verdict,
                                              CPU seconds
        <save_path>/registration_<part>.md    the table

A case is one section and its moved copy. The copy is rotated (full circle), scaled (0.85 to 1.15), slightly sheared,
and shifted by up to half of the image, so that at least half of the tissue stays on it. Stain, lighting, blur and noise
change. Every second copy is mirrored, every second one has lost a third of its tissue. In part b it is also warped
smoothly, by up to one pitch beyond an affine, and refined with SyN. What lies on the slide beside the tissue (a printed
frame) stays in place. Either section may be the moving one. Masks, matching, refinement and gate are those of the
numbered steps.

Error: distance between the registered and the true position of a spot, mean over a grid of spots whose tissue is in
both images; in % of the image diagonal and in pitches. For scale: the best of the ANHIR challenge (Borovec et al., IEEE
TMI 2020) report a mean of 0.44 % on real pairs. Finished cases are kept: a stopped run continues, unless the code that
it uses has changed.

    python benchmarks/registration.py --part a --raw_path ../data --num_workers 2
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
import time

import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.moved_sections import Source, make_case, real_sources, root_sources
from common.exit_codes import guarded
from common.io import atomic_path, read_table, write_table
from common.layout import REPOSITORY, Layout
from common.options import positive_int
from common.recipe import code_digest
from common.workers import map_workers
from registration.sections import render_pair
from registration.transforms import Transform, move

GOOD_PERCENT, GOOD_SYN_PERCENT = 0.3, 0.6  # of the diagonal
FAILED_PERCENT = 2.0            # of the diagonal: the gate must refuse


def run_case(source: Source, seed: int, part: str) -> dict:
    """One row of the table: error in % of the diagonal before and after refinement, the verdict, CPU seconds."""
    from registration.matching import TISSUE_PX, register
    from registration.pairing import TISSUE_PX as COMPARED_PX, settle
    case = make_case(source, seed, smooth=part == "b")
    sections, sizes_um = (case.moving, case.fixed), (source.um_per_px,) * 2
    started = time.process_time()
    match = register(*render_pair(*sections, sizes_um, TISSUE_PX))
    pitch_um = source.pitch_px * source.um_per_px
    compared = render_pair(*sections, sizes_um, COMPARED_PX)
    settled = settle(compared, match, sizes_um, pitch_um, "syn" if part == "b" else "affine")
    seconds = time.process_time() - started
    diagonal_px = float(np.hypot(*case.fixed.mask.shape))

    def error_px(transform: Transform) -> float:
        return float(np.linalg.norm(move(transform, case.moving_spots) - case.fixed_spots, axis=1).mean())

    final_px = error_px(settled.transform)
    row = {**case.drawn,
           "error_percent": 100 * final_px / diagonal_px, "error_pitches": final_px / source.pitch_px,
           "error_before_refinement_percent": 100 * error_px(Transform(match.matrix)) / diagonal_px,
           "accepted": settled.accepted, "method": settled.method, "refinement": settled.refinement,
           "reasons": "; ".join(settled.reasons), "seconds": seconds,
           **{f"found_{name}": value for name, value in settled.evidence.rounded().items()}}
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in row.items()}


def kept_cases(path: Path, code: str, seed: int) -> dict[int, dict]:
    """{case: row} of the stored cases of this code and seed; the number of other cases is printed."""
    if not path.is_file():
        return {}
    table = read_table(path, ("case", "code"), Path(__file__).name, text=("source", "code", "reasons"))
    rows = {row["case"]: row for row in table.to_dict("records") if row["code"] == code and row["seed"] == seed}
    if len(table) > len(rows):
        print(f"{path}: {len(table) - len(rows)} cases of other code or of another seed: they are computed again")
    return rows


def run(sources: list[Source], part: str, cases: int, seed: int, folder: Path, workers: int) -> int:
    path = folder / f"registration_{part}.csv"
    code = code_digest(Path(__file__))[:12]
    rows = kept_cases(path, code, seed)
    todo = [number for number in range(cases) if number not in rows]

    def one(number: int) -> dict:
        source = sources[number % len(sources)]
        return {"case": number, "source": source.name, "seed": seed, "code": code,
                **run_case(source, seed * 100_000 + number, part)}

    for row in tqdm(map_workers(one, todo, workers), total=len(todo), desc=f"part {part}", unit="case", disable=None):
        rows[row["case"]] = row
        write_table(path, pd.DataFrame([rows[number] for number in sorted(rows)]))
    done = pd.DataFrame([rows[number] for number in range(cases)])
    text = summary(done, part)
    with atomic_path(path.with_suffix(".md")) as temporary:
        temporary.write_text(text)
    print(text)
    return 0


def summary(table: pd.DataFrame, part: str) -> str:
    """The table in Markdown: one line per group, `all` first."""
    named = "affine + SyN" if part == "b" else "affine"
    groups = {"all": table, **{name: rows for name, rows in table.groupby("source")}}
    for flag in ("mirrored", "torn"):
        groups |= {flag: table[table[flag].astype(bool)], f"not {flag}": table[~table[flag].astype(bool)]}
    good_percent = GOOD_SYN_PERCENT if part == "b" else GOOD_PERCENT
    columns = ["cases", "n", "median, % of the diagonal", "mean", "worst", "median, pitches", f"under {good_percent} %",
               f"over {FAILED_PERCENT:g} %", "of these flagged", "good ones refused", "s a case"]
    lines = [f"# Registration, part {part}: {named}, {len(table)} cases, seed {table['seed'].iloc[0]}", "",
             "| " + " | ".join(columns) + " |", "| --- |" + " --- |" * 10]
    lines += [summary_line(name, rows, good_percent) for name, rows in groups.items() if len(rows)]
    lines += ["", "Error: mean over the spots whose tissue is in both images. "
              "Seconds: CPU time of matching, refinement and gate.", ""]
    return "\n".join(lines)


def summary_line(name: str, rows: pd.DataFrame, good_percent: float) -> str:
    """One line of the table, for a group of cases."""
    error, accepted = rows["error_percent"], rows["accepted"].astype(bool)
    failed = error > FAILED_PERCENT
    caught = (failed & ~accepted).sum()
    # the gate refused the match; the error after a refusal is that of the fallback, so the one before it counts
    refused = (~accepted & ~(rows["error_before_refinement_percent"] > FAILED_PERCENT)).sum()
    cells = [name, len(rows), f"{error.median():.3f}", f"{error.mean():.3f}", f"{error.max():.2f}",
             f"{rows['error_pitches'].median():.3f}", f"{(error < good_percent).mean():.1%}",
             failed.sum(), caught, refused, f"{rows['seconds'].median():.1f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--raw_path", type=Path, help="folder that holds her2st/ and visium/")
    where.add_argument("--root_path", type=Path, help="a dataset root after step 0_2, e.g. demo_data")
    parser.add_argument("--part", choices=["a", "b"], default="a",
                        help="a: affine; b: also smoothly warped, SyN (default a)")
    parser.add_argument("--cases", type=int, default=100, help="number of cases (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other cases (default 0)")
    parser.add_argument("--save_path", type=Path, default=REPOSITORY / "benchmarks" / "results",
                        help="folder of the tables (default benchmarks/results)")
    parser.add_argument("--num_workers", type=positive_int, default=1, help="processes side by side (default 1)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)

    def work() -> int:
        sources = real_sources(args.raw_path) if args.raw_path else root_sources(Layout(args.root_path))
        return run(sources, args.part, args.cases, args.seed, args.save_path, args.num_workers)
    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
