"""How exact is registration, and does the gate notice when it fails? Real sections moved by known transforms.

INPUT   --raw_path FOLDER    her2st/ST-imgs/C/C{2,3,4}/*.jpg (legacy ST) and visium/mousebrain/*/spatial/ (Space Ranger), or
        --root_path ROOT     any dataset root after step 0_2, e.g. the demo's: its overviews are the sections
OUTPUT  <save_path>/registration_<part>.csv   a row a case: what was done to the section, the error, the gate's verdict, seconds
        <save_path>/registration_<part>.md    the table

A case: one section is turned (full circle), scaled (0.85 to 1.15), sheared a little, shifted by up to half of the image (so that at least half of
the tissue stays on it), stained and lit anew, blurred, with noise; every second one is mirrored, every second one has lost a third of its tissue;
part b is warped smoothly as well, by up to one pitch beyond what an affine can do, and refined with SyN. What is on the slide beside the tissue (a printed frame) stays where
it is. Either of both sections may be the moving one. Masks, matching, refinement and gate are those of the numbered steps.

Error: distance between where a spot is laid and where it belongs, mean over a grid of spots whose tissue is in both images; in % of the image
diagonal and in pitches. For scale: the best of the ANHIR challenge (Borovec et al., IEEE TMI 2020) report a mean of 0.44 % on real pairs.
Finished cases are kept: a run that was stopped goes on where it stood, unless the code it rests on has changed.

    python benchmarks/registration.py --part a --raw_path ../data --num_workers 2
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
import time
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from common.config import load_config
from common.errors import DataError
from common.exit_codes import guarded
from common.geometry import section_geometry
from common.io import atomic_path, read_json, read_picture, read_table, write_table
from common.layout import REPOSITORY, Layout
from common.options import positive_int
from common.recipe import code_digest
from common.slide import open_slide
from common.workers import map_workers
from data_preprocessing.stain import colours
from data_preprocessing.tissue import background_colour, tissue_mask
from registration.sections import Section, render_pair
from registration.transforms import Transform, affine, apply_to_points, identity, invert, move, rotation

OVERVIEW_SIDE_PX = 2048         # as step 0_2 makes it
HER2_PITCH_PX = 272             # level-0 px
VISIUM_SPOT_UM, VISIUM_PITCH_UM, ST_PITCH_UM = 65, 100, 200
SCALES = (0.85, 1.15)
ANISOTROPY = 0.03               # both axes differ by up to twice this
SHEAR = 0.03
MIN_TISSUE_LEFT = 0.5           # of the tissue stays on the canvas, before a third is torn off
TORN_SHARE = 1 / 3
STAIN_STRENGTH = (0.6, 1.6)     # of haematoxylin and of eosin, each
BLUR_PX = (0.0, 2.5)            # sigma, overview px
NOISE = 4.0                     # grey levels
WARP_PITCHES = (0.3, 1.0)       # largest displacement of the smooth warp
WARP_LENGTH = 0.12              # its length scale, share of the image's longer side
GOOD_PERCENT, GOOD_SYN_PERCENT = 0.3, 0.6  # of the diagonal
FAILED_PERCENT = 2.0            # of the diagonal: the gate must notice


@dataclass(frozen=True)
class Source:
    """A section to move: overview, pitch and pixel size in overview px."""
    name: str
    rgb: np.ndarray         # (h, w, 3) uint8
    mask: np.ndarray        # (h, w) bool
    pitch_px: float
    um_per_px: float


@dataclass(frozen=True)
class Case:
    """Two sections and where every spot of the moving one belongs."""
    moving: Section
    fixed: Section
    moving_spots: np.ndarray  # (n, 2) px
    fixed_spots: np.ndarray   # (n, 2) px
    drawn: dict


# sections --------------------------------------------------------------------------------------------
def real_sources(folder: Path) -> list[Source]:
    """HER2-C 2, 3, 4 and the two mouse brain sections. Raises DataError if there is none."""
    found = []
    for picture in sorted(folder.glob("her2st/ST-imgs/C/C[234]/*.jpg")):
        slide = open_slide(picture)
        rgb = slide.thumbnail(OVERVIEW_SIDE_PX)
        pitch_px = HER2_PITCH_PX * rgb.shape[1] / slide.size_px[0]
        found.append(Source(f"HER2-{picture.parent.name}", rgb, tissue_mask(rgb), pitch_px, ST_PITCH_UM / pitch_px))
    open_slide.cache_clear()
    for picture in sorted(folder.glob("visium/mousebrain/*/spatial/tissue_hires_image.png")):
        rgb = open_slide(picture).thumbnail(OVERVIEW_SIDE_PX)
        factors = read_json(picture.parent / "scalefactors_json.json")
        pitch_px = factors["spot_diameter_fullres"] * factors["tissue_hires_scalef"] * VISIUM_PITCH_UM / VISIUM_SPOT_UM
        found.append(Source(f"brain-{picture.parents[1].name[-2:]}", rgb, tissue_mask(rgb), pitch_px, VISIUM_PITCH_UM / pitch_px))
    if not found:
        raise DataError(folder, "no section", "her2st/ST-imgs/C/C2/*.jpg or visium/mousebrain/*/spatial/", "correct --raw_path")
    return found


def root_sources(layout: Layout) -> list[Source]:
    """The overviews of a dataset root. Raises DataError if there is none."""
    config = load_config(layout.config)
    found = []
    for sample, layers in layout.layers_on_disk().items():
        for layer in layers:
            if layout.thumbnail(sample, layer).is_file():
                one, scale = section_geometry(config, layout, sample, layer), read_json(layout.thumbnail_info(sample, layer))["scale"][0]
                found.append(Source(f"{sample}/{layer}", read_picture(layout.thumbnail(sample, layer)), read_picture(layout.mask(sample, layer)) > 0,
                                    one.pitch_px / scale, one.um_per_px * scale))
    if not found:
        raise DataError(layout.root, "no overview", "tissue/<sample>/<layer>.jpg", "run 0_2_tissue_mask.py")
    return found


# cases -----------------------------------------------------------------------------------------------
def make_case(source: Source, seed: int, smooth: bool) -> Case:
    """A section and its moved self. Deterministic by seed."""
    rng = np.random.default_rng(seed)
    shape = source.mask.shape
    mirrored, torn, swapped = (bool(rng.integers(2)) for _ in range(3))
    matrix, drawn = draw_affine(rng, source.mask, mirrored)
    limit_px = source.pitch_px * rng.uniform(*WARP_PITCHES) if smooth else 0.0
    field = smooth_field(rng, cv2.warpAffine(source.mask.astype(np.uint8), matrix, shape[::-1]) > 0, limit_px)  # (h, w, 2)
    background = emptied(source.rgb, source.mask)
    y, x = np.mgrid[:shape[0], :shape[1]].astype(np.float32)
    back = invert(matrix).astype(np.float32)
    read_from = (np.stack([x, y], 2) + field) @ back[:, :2].T + back[:, 2]  # (h, w, 2) float32
    rgb = cv2.remap(source.rgb, read_from[..., 0], read_from[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0))
    soft = cv2.remap(cv2.GaussianBlur(source.mask.astype(np.float32), (0, 0), 1), read_from[..., 0], read_from[..., 1], cv2.INTER_LINEAR)
    if torn:
        soft = soft * (1 - tear(rng, soft > 0.5))
    moved = soft > 0.5
    rgb = restain(rng, background + soft[..., None] * (rgb - background))
    spots = spot_grid(moved, source.pitch_px)  # in the moved section, where the way back is known exactly
    row, column = np.rint(spots).astype(int).T[::-1]
    origin = read_from[row, column].astype(np.float64)
    spots, origin = spots[(inside := on_mask(origin, source.mask))], origin[inside]
    drawn = {"mirrored": mirrored, "torn": torn, "swapped": swapped, **drawn, "warp_pitches": limit_px / source.pitch_px, "spots": len(spots)}
    here, there = Section(source.rgb, source.mask, identity()), Section(rgb, tissue_mask(rgb), identity())
    return Case(here, there, origin, spots, drawn) if swapped else Case(there, here, spots, origin, drawn)


def draw_affine(rng: np.random.Generator, mask: np.ndarray, mirrored: bool) -> tuple[np.ndarray, dict]:
    """(2, 3) source -> moved px, about the tissue's centroid; drawn again until enough tissue stays on the canvas."""
    height, width = mask.shape
    points = np.argwhere(mask)[::37, ::-1].astype(np.float64)  # (n, 2) x, y
    centre = points.mean(axis=0)
    while True:
        degrees, scale = rng.uniform(0, 360), rng.uniform(*SCALES)
        uneven, shear = np.exp(rng.uniform(-ANISOTROPY, ANISOTROPY)), rng.uniform(-SHEAR, SHEAR)
        scales = np.clip([scale * uneven, scale / uneven], *SCALES)
        linear = rotation(degrees)[:, :2] @ np.array([[1, shear], [0, 1]]) @ np.diag(scales * [1, -1 if mirrored else 1])
        shift = rng.uniform(-0.5, 0.5, 2) * [width, height]
        matrix = affine(linear, centre + shift - linear @ centre)
        moved = apply_to_points(matrix, points)
        if ((moved >= 0) & (moved < [width, height])).all(axis=1).mean() >= MIN_TISSUE_LEFT:
            return matrix, {"rotation_deg": degrees, "scale_x": scales[0], "scale_y": scales[1], "shear": shear, "shift_x_px": shift[0], "shift_y_px": shift[1]}


def smooth_field(rng: np.random.Generator, mask: np.ndarray, limit_px: float) -> np.ndarray:
    """(h, w, 2) float32: moved px -> offset of where it is read from. A Gaussian random field without what an affine could do to the tissue,
    (h, w) bool; its longest vector there is `limit_px`.
    """
    noise = rng.normal(size=(64, 64, 2)).astype(np.float32)
    field = np.dstack([cv2.GaussianBlur(noise[..., k], (0, 0), WARP_LENGTH * 64) for k in range(2)])
    field = cv2.resize(field, mask.shape[::-1], interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:mask.shape[0], :mask.shape[1]].astype(np.float32)
    terms = np.dstack([x, y, np.ones_like(x)])  # (h, w, 3)
    field -= terms @ np.linalg.lstsq(terms[mask][::41], field[mask][::41], rcond=None)[0]
    length = np.linalg.norm(field, axis=2)
    return field * (limit_px / length[mask].max()) * np.minimum(1, 2 * length[mask].max() / np.maximum(length, 1e-9))[..., None]  # tame far off


def emptied(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The slide without the tissue: (h, w, 3) float32."""
    wide = cv2.dilate(mask.astype(np.float32), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (41, 41)))
    return rgb + cv2.GaussianBlur(wide, (0, 0), 6)[..., None] * (background_colour(rgb) - rgb)


def tear(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """(h, w) bool: what is torn off, a third of the tissue beyond a wavy line."""
    height, width = mask.shape
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wavy = along + 0.01 * max(height, width) * (np.sin(across / 60 + rng.uniform(0, 6)) + np.sin(across / 23 + rng.uniform(0, 6)))
    return wavy > np.quantile(wavy[mask], 1 - TORN_SHARE)


def restain(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Another stain, slide shade, focus and noise. (h, w, 3) float 0..255 -> uint8."""
    density = -np.log((np.clip(rgb, 0, 255).astype(np.float32).reshape(-1, 3) + 1) / 256)
    stains = colours().astype(np.float32)
    strength = np.append(np.exp(rng.uniform(*np.log(STAIN_STRENGTH), 2)), 1).astype(np.float32)
    density = density @ (np.linalg.inv(stains) * strength @ stains) + rng.uniform(-0.03, 0.12, 3).astype(np.float32)
    out = (256 * np.exp(-density) - 1).reshape(rgb.shape)
    sigma = rng.uniform(*BLUR_PX)
    out = cv2.GaussianBlur(out, (0, 0), sigma) if sigma > 0.3 else out
    return np.clip(out + NOISE * rng.standard_normal(out.shape, np.float32), 0, 255).astype(np.uint8)


def spot_grid(mask: np.ndarray, pitch_px: float) -> np.ndarray:
    """(n, 2) x, y of a grid at the pitch, on the tissue."""
    y, x = np.meshgrid(*(np.arange(pitch_px / 2, side, pitch_px) for side in mask.shape), indexing="ij")
    points = np.stack([x.ravel(), y.ravel()], 1)
    return points[on_mask(points, mask)]


def on_mask(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(n,) bool."""
    column, row = np.rint(points).astype(int).T
    inside = (column >= 0) & (column < mask.shape[1]) & (row >= 0) & (row < mask.shape[0])
    inside[inside] = mask[row[inside], column[inside]]
    return inside


# running ---------------------------------------------------------------------------------------------
def run_case(source: Source, seed: int, part: str) -> dict:
    """One row of the table: error in % of the diagonal before and after refinement, the verdict, seconds."""
    from registration.matching import TISSUE_PX, register
    from registration.pairing import TISSUE_PX as COMPARED_PX
    from registration.pairing import settle
    case = make_case(source, seed, smooth=part == "b")
    sections, sizes_um = (case.moving, case.fixed), (source.um_per_px,) * 2
    started = time.process_time()
    match = register(*render_pair(*sections, sizes_um, TISSUE_PX))
    pitch_um = source.pitch_px * source.um_per_px
    settled = settle(render_pair(*sections, sizes_um, COMPARED_PX), match, sizes_um, pitch_um, "syn" if part == "b" else "affine")
    seconds = time.process_time() - started
    diagonal_px = float(np.hypot(*case.fixed.mask.shape))

    def error_px(transform: Transform) -> float:
        return float(np.linalg.norm(move(transform, case.moving_spots) - case.fixed_spots, axis=1).mean())

    laid_px = error_px(settled.transform)
    row = {**case.drawn, "error_percent": 100 * laid_px / diagonal_px, "error_pitches": laid_px / source.pitch_px,
           "error_before_refinement_percent": 100 * error_px(Transform(match.matrix)) / diagonal_px, "accepted": settled.accepted,
           "method": settled.method, "refinement": settled.refinement, "reasons": "; ".join(settled.reasons), "seconds": seconds,
           **{f"found_{name}": value for name, value in settled.evidence.rounded().items()}}
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in row.items()}


def run(sources: list[Source], part: str, cases: int, seed: int, folder: Path, workers: int) -> int:
    path = folder / f"registration_{part}.csv"
    code = code_digest(Path(__file__))[:12]
    table = read_table(path, ("case", "code"), Path(__file__).name, text=("source", "code", "reasons")) if path.is_file() else pd.DataFrame()
    rows = {} if table.empty else {row["case"]: row for row in table.to_dict("records") if row["code"] == code and row["seed"] == seed}
    todo = [number for number in range(cases) if number not in rows]
    if len(table) > len(rows):
        print(f"{path}: {len(table) - len(rows)} cases of other code or of another seed: they are made again")

    def one(number: int) -> dict:
        source = sources[number % len(sources)]
        return {"case": number, "source": source.name, "seed": seed, "code": code, **run_case(source, seed * 100_000 + number, part)}

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
    """The table in Markdown: a line a group, `all` first."""
    good_percent = GOOD_SYN_PERCENT if part == "b" else GOOD_PERCENT
    named = "affine + SyN" if part == "b" else "affine"
    groups = {"all": table, **{name: rows for name, rows in table.groupby("source")}}
    for flag in ("mirrored", "torn"):
        groups |= {flag: table[table[flag].astype(bool)], f"not {flag}": table[~table[flag].astype(bool)]}
    lines = [f"# Registration, part {part}: {named}, {len(table)} cases, seed {table['seed'].iloc[0]}", "",
             f"| cases | n | median, % of the diagonal | mean | worst | median, pitches | under {good_percent} % | over {FAILED_PERCENT:g} % | of these flagged "
             f"| good ones refused | s a case |", "| --- |" + " --- |" * 10]
    for name, rows in groups.items():
        if len(rows):
            error, accepted = rows["error_percent"], rows["accepted"].astype(bool)
            failed = error > FAILED_PERCENT
            caught = (failed & ~accepted).sum()
            refused = (~accepted & ~(rows["error_before_refinement_percent"] > FAILED_PERCENT)).sum()  # a refused pair is laid anew: what it was before
            lines.append(f"| {name} | {len(rows)} | {error.median():.3f} | {error.mean():.3f} | {error.max():.2f} | {rows['error_pitches'].median():.3f} "
                         f"| {(error < good_percent).mean():.1%} | {failed.sum()} | {caught} | {refused} | {rows['seconds'].median():.1f} |")
    lines += ["", "Error: mean over the spots whose tissue is in both images. Seconds: CPU time of matching, refinement and gate.", ""]
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--raw_path", type=Path, help="folder that holds her2st/ and visium/")
    where.add_argument("--root_path", type=Path, help="a dataset root after step 0_2, e.g. demo_data")
    parser.add_argument("--part", choices=["a", "b"], default="a", help="a: affine; b: smoothly warped as well, SyN (default a)")
    parser.add_argument("--cases", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other cases (default 0)")
    parser.add_argument("--save_path", type=Path, default=REPOSITORY / "benchmarks" / "results", help="default benchmarks/results")
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
