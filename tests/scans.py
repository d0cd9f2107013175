"""Made-up scans: a slide in the form of Aperio, one of 3DHISTECH with its folder, the parts of one of Hamamatsu."""
import io
import struct
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

UID = b"0123456789ABCDEF"
UM_PER_PX = 4.0
SLIDEDAT = """[GENERAL]
SLIDE_VERSION = 01.02
SLIDE_ID = 0123456789ABCDEF
IMAGENUMBER_X = 2
IMAGENUMBER_Y = 2
OBJECTIVE_MAGNIFICATION = 20
[HIERARCHICAL]
HIER_COUNT = 1
NONHIER_COUNT = 0
INDEXFILE = Index.dat
HIER_0_NAME = Slide zoom level
HIER_0_COUNT = 1
HIER_0_SECTION = LAYER_0_SECTION
HIER_0_VAL_0 = ZoomLevel_0
HIER_0_VAL_0_SECTION = LAYER_0_LEVEL_0_SECTION
[DATAFILE]
FILE_COUNT = 1
FILE_0 = Data0000.dat
[LAYER_0_LEVEL_0_SECTION]
OVERLAP_X = 0
OVERLAP_Y = 0
MICROMETER_PER_PIXEL_X = 4.0
MICROMETER_PER_PIXEL_Y = 4.0
IMAGE_FORMAT = JPEG
IMAGE_FILL_COLOR_BGR = 16777215
DIGITIZER_WIDTH = 256
DIGITIZER_HEIGHT = 256
IMAGE_CONCAT_FACTOR = 0
"""


def section(seed: int = 0) -> np.ndarray:
    """A section on glass: (512, 512, 3) uint8, tissue in the ellipse of `tissue`."""
    noise = np.random.default_rng(seed).normal(0, 60, (512, 512))
    rgb = np.full((512, 512, 3), 242, np.float32)
    stained = np.array([150, 85, 145]) + cv2.GaussianBlur(noise, (0, 0), 1.2)[..., None]
    rgb[tissue()] = stained[tissue()]
    return np.clip(rgb, 0, 255).astype(np.uint8)


def tissue() -> np.ndarray:
    """(512, 512) bool."""
    return cv2.ellipse(np.zeros((512, 512), np.uint8), (250, 270), (170, 110), 20, 0, 360, 1, -1) > 0


def write_svs(path: Path) -> bytes:
    """A pyramid of two levels that states 4 um per px; its bytes."""
    about = "Aperio Image Library v11\r\n512x512 (256x256) JPEG/RGB Q=80|AppMag = 20|MPP = 4.0"
    options = {"photometric": "rgb", "tile": (256, 256), "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        file.write(section(), description=about, **options)
        file.write(section()[::4, ::4].copy(), description=about, photometric="rgb", metadata=None)
        file.write(section()[::2, ::2].copy(), description=about, **options)
    return path.read_bytes()


def write_mrxs(path: Path) -> None:
    """An empty .mrxs and the folder of its name with four tiles."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True)
    path.write_bytes(b"")
    (folder / "Slidedat.ini").write_text(SLIDEDAT)
    data, entries = b"HEAD", b""
    for number, (y, x) in enumerate([(0, 0), (0, 256), (256, 0), (256, 256)]):
        stream = io.BytesIO()
        Image.fromarray(section()[y:y + 256, x:x + 256]).save(stream, "JPEG", quality=95)
        entries += struct.pack("<iiii", number, len(data), len(stream.getvalue()), 0)
        data += stream.getvalue()
    (folder / "Data0000.dat").write_bytes(data)
    start = 5 + len(UID) + 8
    index = b"01.02" + UID + struct.pack("<iiii", start, start + 4, start + 8, 0)
    (folder / "Index.dat").write_bytes(index + struct.pack("<iiii", 0, start + 16, 4, 0) + entries)


def write_vms_parts(folder: Path) -> Path:
    """The files that a .vms names (not real pixels), and the .vms; its path."""
    folder.mkdir(parents=True)
    names = {"ImageFile": "a.jpg", "ImageFile(1,0)": "a(1,0).jpg", "MapFile": "a_map2.jpg",
             "OptimisationFile": "a.opt"}
    for name in list(names.values())[:3]:
        (folder / name).write_bytes(b"\xff\xd8 pixels")
    lines = "\n".join(f"{key}={name}" for key, name in names.items())
    (folder / "a.vms").write_text(f"[Virtual Microscope Specimen]\nNoLayers=1\n{lines}\n")
    return folder / "a.vms"


def polygons(*rings, **properties) -> dict:
    """A FeatureCollection of one Polygon a list of rings."""
    features = []
    for one in rings:
        closed = [[*ring, ring[0]] for ring in (one if isinstance(one[0][0], list) else [one])]
        features.append({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": closed},
                         "properties": properties})
    return {"type": "FeatureCollection", "features": features}
