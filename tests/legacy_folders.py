"""Small folders of legacy ST for tests: one made-up section in any form of names, tables and pictures."""
import gzip
import io
from pathlib import Path

import numpy as np
import yaml
from conftest import load_script
from PIL import Image

from common.config import load_config
from common.io import read_h5ad, read_location
from common.layout import Layout

PITCH = 30.0  # px
SIDE = 5  # spots a side of the array, from position (3, 4) on
GENES = ("ACTB", "GAPDH", "TP53")
JITTER = 0.1  # array steps
convert = load_script("0_1_convert_raw")


def write(path: Path, content: str | bytes) -> Path:
    """A file in folders of its own; packed if its name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def array() -> list[tuple[int, int]]:
    """(column, row) of every spot."""
    spots = []
    for row in range(4, 4 + SIDE):
        spots += [(column, row) for column in range(3, 3 + SIDE)]
    return spots


def aligned() -> list[tuple[float, float]]:
    """The measured array position of every spot, two digits."""
    rng = np.random.default_rng(0)
    return [(round(c + rng.uniform(-JITTER, JITTER), 2), round(r + rng.uniform(-JITTER, JITTER), 2))
            for c, r in array()]


def values(seed: int = 0) -> np.ndarray:
    """Counts (n_spots, n_genes); the first spot has 1, 2, 3."""
    counts = np.random.default_rng(seed).poisson(3, (SIDE**2, len(GENES)))
    counts[0] = 1, 2, 3
    return counts


def names(form: str = "{}x{}") -> list[str]:
    return [form.format(*spot) for spot in array()]


def counts_text(rows: list[str] | None = None, columns=GENES, separator: str = "\t", corner: str = "",
                counts: np.ndarray | None = None) -> str:
    """A table of counts with these names of its rows and columns."""
    rows, counts = names() if rows is None else rows, values() if counts is None else counts
    lines = [separator.join([corner, *columns])]
    lines += [separator.join([name, *map(str, row)]) for name, row in zip(rows, counts, strict=True)]
    return "\n".join(lines) + "\n"


def spots_text(selected=None, header: bool = True, separator: str = "\t", at=None, first: str = "") -> str:
    """A spot file of the ST Spot Detector; selected: a word a spot."""
    columns = ["x", "y", "new_x", "new_y", "pixel_x", "pixel_y"] + (["selected"] if selected else [])
    lines = [first] if first else []
    lines += [separator.join(columns)] if header else []
    for k, ((x, y), (new_x, new_y)) in enumerate(zip(array(), at or aligned(), strict=True)):
        words = [x, y, new_x, new_y, x * PITCH, y * PITCH] + ([selected[k]] if selected else [])
        lines.append(separator.join(map(str, words)))
    return "\n".join(lines) + "\n"


def picture(width: int = 300, height: int = 320, kind: str = "JPEG", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def run(raw: Path, root: Path, form: str, config: dict | None = None, *options: str) -> int:
    """Convert; config: keys that replace those of the shipped one."""
    chosen = ["--format", form]
    if config is not None:
        file = write(root.parent / f"{root.name}.yaml", yaml.safe_dump(
            {"dataset": "mine", "raw_format": form, "array": "square", "pitch_um": 200, **config}))
        chosen = ["--config", str(file)]
    return convert.main([*chosen, "--raw_path", str(raw), "--root_path", str(root), *options])


def layers_of(root: Path) -> dict[str, list[int]]:
    return {name: one.layers for name, one in load_config(Layout(root).config).samples.items()}


def check_section(root: Path, sample: str, layer: int, barcodes: list[str] | None = None) -> None:
    """The first spot of a converted section lies where it was written, with its counts; all spots are there."""
    layout = Layout(root)
    location, counts = read_location(layout.location(sample, layer)), read_h5ad(layout.counts(sample, layer))
    assert list(location["barcode"]) == (barcodes or names())
    assert tuple(location.iloc[0][["pixel_x", "pixel_y", "i", "j"]]) == (3 * PITCH, 4 * PITCH, 3, 4)
    assert list(counts.obs_names) == list(location["barcode"]) and list(counts.var_names) == list(GENES)
    np.testing.assert_array_equal(counts.X.toarray(), values())
    assert counts.X.format == "csr" and counts.X.dtype == np.float32
