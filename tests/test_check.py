"""`common.cli check`: a good root has no fault; a spoilt file is named alone, with the fault and the fix."""
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from spoil import (
    array,
    attribute,
    cell,
    cut,
    field,
    first_columns,
    hdf5,
    matrix,
    replaced,
    stored,
    swap,
    table,
    tensors,
)
from toy_roots import (
    GENES,
    HOW,
    SLIDE_PX,
    STEPS,
    add_layer,
    run,
    square_array,
    toy_config,
    toy_counts,
    toy_location,
)

from common import cli, io
from common.config import save_config
from common.layout import SIZES, Layout
from data_preprocessing import patches
from registration.transforms import write_transform

AFTER = ("Step0_original_contour_generation", "Step3.5_registertoMiddle_ANTs_points_contour_fast",
         "1_get_iou", "2_get_similarity", "3_build_3d_information", "4_build_3d_graph", "5_build_3d_final_format")
SCALE = 25  # level-0 px per thumbnail px


def write_pictures(layout: Layout, layer: int) -> None:
    """What steps 0_2 and 1 write, in white."""
    size = np.array(SLIDE_PX) // SCALE
    info = {"width_px": SLIDE_PX[0], "height_px": SLIDE_PX[1], "scale": [SCALE, SCALE], "tissue_share": 1.0}
    io.write_json(layout.thumbnail_info("S", layer), info)
    io.write_picture(layout.thumbnail("S", layer), np.full((*size[::-1], 3), 255, np.uint8))
    io.write_picture(layout.mask("S", layer), np.full(size[::-1], 255, np.uint8))
    for one in SIZES:
        grid = patches.read_patch_table(layout, one, "S", layer)
        white = (np.full((one, one, 3), 255, np.uint8) for _ in range(len(grid)))
        names = grid["patch_name"].tolist()
        io.write_patches(layout.patches(one, "S", layer), white, one, patches.centres(grid), names)


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Layout:
    """A root of two sections, 1 with counts and 2 without, after every step; a test that spoils a file puts it back."""
    layout = Layout(tmp_path_factory.mktemp("root"))
    location = toy_location(square_array(5, 4))
    for layer in (1, 2):
        add_layer(layout, layer, location, toy_counts(location["barcode"][1:], GENES) if layer == 1 else None)
        write_pictures(layout, layer)
    save_config(toy_config([1, 2]), layout.config)
    write_transform(layout.pair_coarse("S", 1, 2), np.eye(2, 3), 1, 2)
    for layer in (1, 2):
        write_transform(layout.to_middle("S", layer), np.eye(2, 3), layer, 2)
    to_middle = {"1": {"accepted": True}, "2": {"accepted": True}}
    io.write_json(layout.quality("S"), {"layers": [1, 2], "middle": 2, "pairs": [], "to_middle": to_middle})
    run(layout.root, *STEPS, *AFTER)
    return layout


@pytest.fixture
def spoil(layout):
    """A function that alters a file by change(path); the file is put back after the test."""
    kept = {}

    def change_and_remember(path, change):
        kept.setdefault(path, path.read_bytes())
        change(path)
    yield change_and_remember
    for path, content in kept.items():
        path.write_bytes(content)


def check(layout: Layout, capsys) -> tuple[int, list[str], list[str]]:
    """(exit code, lines of the steps, lines of the faults)."""
    capsys.readouterr()
    code = cli.main(["check", "--root_path", str(layout.root)])
    lines = capsys.readouterr().out.splitlines()
    steps = [line for line in lines if not line.startswith("  ")]
    return code, steps, [line.strip() for line in lines if line.startswith("  ")]


# the faults ------------------------------------------------------------------------------------------
CROSS = ("spot", "cross", "spot")
OTHER_HASH = "cd" * 32


def without_edge(edges: dict) -> dict:
    """The same edges without the first one."""
    return {"edge_index": edges["edge_index"][:, 1:].clone(), "edge_attr": edges["edge_attr"][1:].clone()}


def set_recipe(level: dict, feature_set: str, **values) -> None:
    level["feature_recipe"][feature_set].update(values)


CASES = [  # file, way to spoil it, the fault found, the script that makes it
    # inputs
    (lambda l: l.location("S", 1), cell("barcode", 1, "0x0"), "barcode 0x0 twice", "0_1"),
    (lambda l: l.location("S", 2), cell("pixel_x", 3, "far"), "pixel_x", "0_1"),
    (lambda l: l.counts("S", 1), stored(lambda a: a.X.__imul__(0.5)), "no counts", "0_1"),
    (lambda l: l.counts("S", 1), stored(lambda a: setattr(a, "obs_names", ["other", *a.obs_names[1:]])),
     "1 barcodes without a spot", "0_1"),
    (lambda l: l.thumbnail_info("S", 1), stored(lambda j: j.pop("scale")), "no scale", "0_2_tissue_mask.py"),
    (lambda l: l.thumbnail("S", 1), cut, "cannot be read", "0_2_tissue_mask.py"),
    (lambda l: l.mask("S", 2), lambda path: io.write_picture(path, np.full((100, 120), 7, np.uint8)),
     "other values than 0 and 255", "0_2_tissue_mask.py"),
    # patches
    (lambda l: l.patches_csv(224, "S", 1), table(lambda t: t.iloc[::-1]),
     "4x3 where 0x0 belongs", "1_cropped_multi_level_patch.py"),
    (lambda l: l.patches_csv(512, "S", 1), table(lambda t: t.assign(width=500)),
     "width 500", "1_cropped_multi_level_patch.py"),
    (lambda l: l.region_pairs_csv("S", 2), cell("spots", 1, "1x0"),
     "spots; expected each of the 20 spots", "2_find_512_pair.py"),
    (lambda l: l.global_pairs_csv("S", 2), table(lambda t: t.drop(columns="regions")),
     "columns patch_name", "3_find_1024_pair.py"),
    (lambda l: l.patches(224, "S", 1), replaced("coords", lambda c: c + 1),
     "coords that are not the patches' centres", "1_cropped_multi_level_patch.py"),
    (lambda l: l.patches(512, "S", 2), replaced("img", lambda i: i[:, ::2]),
     "img uint8", "1_cropped_multi_level_patch.py"),
    # features
    (lambda l: l.features(224, "S", 1), hdf5(lambda f: f["backbone"].__setitem__((3, 0), np.nan)),
     "backbone that is not finite", "4_feature_extraction.py"),
    (lambda l: l.features(512, "S", 1), replaced("backbone", lambda x: x[:, :-1]),
     "backbone float32", "4_feature_extraction.py"),
    (lambda l: l.features(1024, "S", 2), hdf5(lambda f: f.pop("backbone")), "no backbone", "4_feature_extraction.py"),
    (lambda l: l.features(224, "S", 1), attribute("backbone", model="resnet50"),
     "model resnet50; expected efficientnet_lite0, as in dataset.yaml", "4_feature_extraction.py"),
    (lambda l: l.features(512, "S", 1), attribute("stain", spot_window_um=82.4),
     "windows of 82.4 um a spot; expected windows of 164.7 um, as in dataset.yaml", "4_feature_extraction.py"),
    (lambda l: l.features(1024, "S", 1), attribute("backbone", weights_sha256=OTHER_HASH),
     "backbone features by weights_sha256 cdcdcdcdcdcd", "4_feature_extraction.py"),
    (lambda l: l.features(512, "S", 2), hdf5(lambda f: f["stain"].attrs.__delitem__("preprocessing")),
     "stain without preprocessing", "4_feature_extraction.py"),
    (lambda l: l.features(512, "S", 2), replaced("barcode", lambda b: b[::-1]), "belongs", "4_feature_extraction.py"),
    # genes and expression
    (lambda l: l.genes, cell("rank", 0, 5), "ranks out of order", "5_1_find_high_expression.py"),
    (lambda l: l.background, table(lambda t: t[2:].assign(rank=range(1, 11))),
     "background without some of the chosen genes", "5_1_find_high_expression.py"),
    (lambda l: l.background, cell("gene", 1, ""), "gene twice or without name", "5_1_find_high_expression.py"),
    (lambda l: l.member_counts(512, "S", 1), stored(lambda a: setattr(a, "obs", a.obs.assign(depth=1.0))),
     "a depth that is not", "5_2_get_label_of_other_resolution.py"),
    (lambda l: l.member_counts(224, "S", 1), stored(lambda a: a.obs.__delitem__("depth")),
     "no depth", "5_2_get_label_of_other_resolution.py"),
    (lambda l: l.member_counts(512, "S", 1), stored(lambda a: a.X.data.__setitem__(0, 99)),
     "sums that differ", "5_2_get_label_of_other_resolution.py"),
    (lambda l: l.member_counts(1024, "S", 1), stored(lambda a: a[:, ::-1].copy()),
     "where", "5_2_get_label_of_other_resolution.py"),
    (lambda l: l.expression(224, "S", 1), stored(lambda a: a.X.__iadd__(0.1)),
     "layers['counts'] and obs['depth']", "5_3_normalization.py"),
    # graphs of a section
    (lambda l: l.graph("S", 1), tensors(lambda g: first_columns(g["spot", "near", "spot"]["edge_index"])),
     "edges out of order or twice", "6_pt_construction.py"),
    (lambda l: l.graph("S", 1), tensors(lambda g: g["spot", "in", "region"]["edge_index"][1].__setitem__(-1, 99)),
     "(spot, in, region): an edge to a node", "6_pt_construction.py"),
    (lambda l: l.graph("S", 2), tensors(lambda g: g["spot", "in", "global"].update(
        edge_index=g["spot", "in", "global"]["edge_index"][:, 1:].clone())),
     "members with no owner or with two", "6_pt_construction.py"),
    (lambda l: l.graph("S", 2), tensors(lambda g: g["region", "near", "region"].update(
        without_edge(g["region", "near", "region"]))),
     "an edge in one direction only", "6_pt_construction.py"),
    (lambda l: l.graph("S", 2), tensors(lambda g: g["region"]["x"].fill_(torch.inf)),
     "region x that is not finite", "6_pt_construction.py"),
    (lambda l: l.graph("S", 1), tensors(lambda g: g["spot"].update(feature_sets={"backbone": 8})),
     "feature_sets", "6_pt_construction.py"),
    (lambda l: l.graph("S", 1), tensors(lambda g: set_recipe(g["spot"], "backbone", weights_sha256=OTHER_HASH)),
     "weights_sha256 cdcdcdcdcdcd; expected abababababab, as in extracted_feature/224/S/1.h5", "6_pt_construction.py"),
    (lambda l: l.graph("S", 2), tensors(lambda g: g["spot"]["genes"].reverse()),
     "another gene list; expected the genes of genes.csv", "6_pt_construction.py"),
    (lambda l: l.graph("S", 1), lambda path: path.write_bytes(b"\x80\x04c" + b"os\nsystem\n"),
     "cannot be read", "6_pt_construction.py"),
    # registration
    (lambda l: l.contours("S", 1), array(lambda c: c + 3),
     "contours 3 px off their spots", "Step0_original_contour_generation.py"),
    (lambda l: l.pair_coarse("S", 1, 2), stored(lambda j: j.update(matrix=[[1, 1, 0], [1, 1, 0]])),
     "a matrix without inverse", "Step1_affine"),
    (lambda l: l.to_middle("S", 1), stored(lambda j: j.update(moving=2)),
     "a transform of section 2", "Step3_registertoMiddle_ANTs.py"),
    (lambda l: l.pair_coarse("S", 1, 2), stored(lambda j: j.update(method="up")), "method 'up'", "Step1_affine"),
    (lambda l: l.pair_coarse("S", 1, 2), stored(lambda j: j.update(inliers="up")), "inliers 'up'", "Step1_affine"),
    (lambda l: l.to_middle("S", 1), stored(lambda j: j.update(matrix=[[1, 0], [0, 1]])),
     "matrix float64 (2, 2)", "Step3_registertoMiddle_ANTs.py"),
    (lambda l: l.quality("S"), stored(lambda j: j.update(middle=7)),
     "middle section 7", "Step3_registertoMiddle_ANTs.py"),
    (lambda l: l.spot_regist("S"), cell("registered_x", 4, ""), "position that is not finite", "Step3.5_"),
    (lambda l: l.spot_regist_contours("S"), array(lambda c: c[1:]), "contours float32 (39, 100, 2)", "Step3.5_"),
    # pairs of spots, and the graph of a sample
    (lambda l: l.spot_iou("S"), matrix(lambda m: m.data.__imul__(2)), "values", "1_get_iou.py"),
    (lambda l: l.spot_iou("S"), matrix(lambda m: m.data.__setitem__(0, 0.5)), "a pair with two values", "1_get_iou.py"),
    (lambda l: l.similarity("S"), matrix(lambda m: swap(m.indices)),
     "columns out of order or twice", "2_get_similarity.py"),
    (lambda l: l.combined("S"), matrix(lambda m: m.data.__imul__(0.5)),
     "weights that are not IoU + cosine", "3_build_3d_information.py"),
    (lambda l: l.graph_3d("S"), tensors(lambda g: set_recipe(g["spot"], "stain", spot_window_um=82.4)),
     "stain features of windows of 82.4 um", "4_build_3d_graph.py"),
    (lambda l: l.graph_3d("S"), tensors(lambda g: g["spot"]["layer"].__setitem__(0, 2)),
     "spots of other sections", "4_build_3d_graph.py"),
    (lambda l: l.graph_3d("S"), tensors(lambda g: first_columns(g[CROSS]["edge_index"])),
     "edges out of order or twice", "4_build_3d_graph.py"),
    (lambda l: l.graph_3d("S"), tensors(lambda g: g[CROSS]["edge_attr"][:, 0].mul_(2)),
     "a wrong weight", "4_build_3d_graph.py"),
    (lambda l: l.graph_3d("S"), tensors(lambda g: g["region"]["layer"].fill_(2)),
     "a spot in a region of another section", "4_build_3d_graph.py"),
    (lambda l: l.graph_3d("S"), tensors(lambda g: g.pop(("region", "in", "global"))),
     "no ('region', 'in', 'global')", "4_build_3d_graph.py"),
    # records
    (lambda l: l.npy("S", 2), field("region_index", 3, 99), "region_index out of range", "7_make_dataset.py"),
    (lambda l: l.npy("S", 2), field("label", 3, 1.0), "a label where has_label is false", "7_make_dataset.py"),
    (lambda l: l.npy("S", 1), field("pixel", 3, 1.0), "other pixels", "7_make_dataset.py"),
    (lambda l: l.npy_3d("S"), field("feature", 3, np.nan), "feature that is not finite", "5_build_3d_final_format.py"),
    (lambda l: l.npy_3d("S"), field("label", 3, 1.0), "records of section 1 that differ", "5_build_3d_final_format.py"),
    (lambda l: l.npy_3d("S"), array(lambda a: a[::-1]), "where 0x0 belongs", "5_build_3d_final_format.py")]


def test_a_good_root_has_no_fault(layout, capsys):
    code, steps, faults = check(layout, capsys)
    assert (code, faults) == (0, [])
    unmade = ["Step2_registration_ANTs", "main", "main_3d"]
    assert [line.split()[0] for line in steps if not line.endswith(" right")] == unmade
    assert [line.split()[0] for line in steps if line.endswith("not made yet")] == unmade
    for step in ("7_make_dataset", "5_1_find_high_expression"):
        assert step.ljust(51) + "2 files right" in steps


@pytest.mark.parametrize("file, change, found, script", CASES)
def test_a_spoilt_file_is_the_one_that_is_named(layout, spoil, capsys, file, change, found, script):
    path = file(layout)
    spoil(path, change)
    code, _, faults = check(layout, capsys)
    assert code == 2 and len(faults) == 1, faults
    line = faults[0]
    assert line.startswith(f"{path}: found ") and found in line and "; expected " in line
    fix = line.split("; fix: ")[1]
    assert "correct it" in fix if script == "0_1" else fix.startswith(f"run {script}")
    assert "--overwrite" in fix


@pytest.mark.parametrize("changed, found", [
    ({}, None), ({"array": "hex"}, "array hex, 200 um"), ({"pitch_um": 100.0}, "square, 100 um"),
    ({"feature_recipe": HOW | {"backbone": HOW["backbone"] | {"weights_sha256": OTHER_HASH}}},
     "backbone features by weights_sha256 cdcdcdcdcdcd"),
    ({"feature_recipe": HOW | {"stain": HOW["stain"] | {"spot_window_um": 82.4}}}, "windows of 82.4 um"),
    ("genes", "expected the 10 genes of genes.csv")])
@pytest.mark.parametrize("run_name, script", [("msagnet", "main_3d"), ("msagnet_2d", "main")])
def test_a_checkpoint_of_other_features_genes_or_array_is_found(layout, capsys, changed, found, run_name, script):
    genes = io.read_table(layout.genes)["gene"].tolist()
    was = {"array": "square", "pitch_um": 200.0, "feature_recipe": HOW} | (changed if isinstance(changed, dict) else {})
    path = layout.root / "runs" / run_name / "fold_0" / "checkpoint.pt"
    io.write_pt(path, {"genes": genes[::-1] if changed == "genes" else genes, "trained_with": was})
    code, _, faults = check(layout, capsys)
    path.unlink()
    assert code == (2 if found else 0) and len(faults) == bool(found)
    assert not found or (found in faults[0] and f"run {script}.py" in faults[0])


@pytest.mark.parametrize("file, change, script", [
    (lambda l: l.genes, table(lambda t: t[:-2]), "5_1_find_high_expression"),  # cut off at the end of a line
    (lambda l: l.background, table(lambda t: t[:-2]), "5_1_find_high_expression"),
    (lambda l: l.pair_coarse("S", 1, 2), stored(lambda value: value | {"scale_um_x": 1.01}), None),  # has no recipe
])
def test_a_good_file_that_is_not_as_it_was_written_is_named(layout, spoil, capsys, file, change, script):
    spoil(file(layout), change)
    _, _, faults = check(layout, capsys)
    own = [line for line in faults if line.startswith(str(file(layout)))]
    assert len(own) == (script is not None)
    assert all("other bytes" in line and f"run {script}.py with --overwrite" in line for line in own)


def test_a_location_that_was_changed_is_found_by_the_files_made_from_it(layout, spoil, capsys):
    spoil(layout.location("S", 2), cell("barcode", 0, "new"))
    _, _, faults = check(layout, capsys)
    assert [line.split(":")[0] for line in faults] == [str(path) for path in (
        layout.patches_csv(224, "S", 2), layout.npy("S", 2), layout.spot_regist("S"))]
    assert all("0x0 where new belongs" in line for line in faults)


def test_a_missing_file_is_no_fault_and_a_missing_image_is(layout, spoil, capsys):
    for path in (layout.genes, layout.background):
        spoil(path, lambda path: path.unlink())
    image = layout.image("S", 1)
    code, steps, faults = check(layout, capsys)
    assert (code, faults) == (0, []) and "5_1_find_high_expression".ljust(51) + "not made yet" in steps
    spoil(image, lambda path: (path.unlink(), path.symlink_to("gone.png")))
    try:
        code, _, faults = check(layout, capsys)
    finally:
        image.unlink()
    assert code == 2 and len(faults) == 1
    assert faults[0].startswith(f"{image}: found a link to nothing; expected ") and "fix: correct it" in faults[0]


def test_only_a_chosen_number_of_genes_is_a_limit(layout, spoil, capsys):
    """Step 5_1 takes a list of genes whole, however long; top_mean and hvg are cut at n_genes."""
    n = len(pd.read_csv(layout.genes))
    for genes, faults in (("mine.txt", 0), ("top_mean", 1), ("hvg", 1)):
        spoil(layout.config, partial(save_config, toy_config([1, 2], genes=genes, n_genes=n - 1)))
        found = check(layout, capsys)[2]
        assert len(found) == faults
        assert all(f"{n} genes; expected up to {n - 1} by dataset.yaml" in line for line in found)


def test_another_config_may_be_given(layout, tmp_path, capsys):
    save_config(toy_config([1, 2], n_genes=1), tmp_path / "other.yaml")
    assert cli.main(["check", "--root_path", str(layout.root), "--config", str(tmp_path / "other.yaml")]) == 2
    assert "expected up to 1 by dataset.yaml" in capsys.readouterr().out


def test_a_file_is_read_once(layout, capsys, monkeypatch):
    read = []

    def noted(name, function):
        def call(path, *arguments, **options):
            read.append((name, path))
            return function(path, *arguments, **options)
        return call

    readers = ("location", "table", "h5ad", "csr", "npy", "npz", "json", "pt", "picture")
    for name in (f"read_{kind}" for kind in readers):
        monkeypatch.setattr(io, name, noted(name, getattr(io, name)))
    assert check(layout, capsys)[0] == 0
    assert len(read) > 40 and sorted(one for one in set(read) if read.count(one) > 1) == []


def test_a_bad_config_is_one_line(layout, spoil, capsys):
    spoil(layout.config, lambda path: path.write_text("dataset: toy\npitch: 3\n"))
    assert cli.main(["check", "--root_path", str(layout.root)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
