"""Run the numbered scripts in their order, in this process."""
import shutil
from pathlib import Path

from common.layout import PIPELINE
from conftest import load_script

STEPS = list(PIPELINE)
FROM_COUNTS = ["5_2_get_label_of_other_resolution", "5_3_normalization", "6_pt_construction", "7_make_dataset", "4_build_3d_graph", "5_build_3d_final_format"]


def run(root: Path, steps: list[str], *options: str) -> None:
    """Run these steps; each must end well."""
    for step in steps:
        assert load_script(step).main(["--root_path", str(root), *options]) == 0, step


def train_and_predict(root: Path, save_path: Path, *options: str) -> None:
    """main_3d.py and predict_3d.py on the CPU."""
    assert load_script("main_3d").main(["--root_path", str(root), "--save_path", str(save_path), "--gpu", "cpu", *options]) == 0
    assert load_script("predict_3d").main(["--root_path", str(root), "--save_path", str(save_path), "--gpu", "cpu"]) == 0


def copy_of(root: Path, target: Path) -> Path:
    """A root to spoil; the images are copied too."""
    shutil.copytree(root, target)
    return target
