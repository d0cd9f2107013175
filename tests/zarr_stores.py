"""Small SpatialData stores, as spatialdata-io writes them for Visium and Visium HD, and other forms of labs."""
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

HIRES, RADIUS, PITCH_PX = 0.25, 22.0, 80.0  # px of the stored image a full-resolution px; full-resolution px


def hex_centres(columns: int = 6, rows: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """(x, y in full-resolution px (n, 2); array_col, array_row (n, 2)) of a hexagonal array."""
    row, step = np.divmod(np.arange(columns * rows), columns)
    xy = PITCH_PX * np.stack([1 + step + row % 2 / 2, 1 + row * np.sqrt(0.75)], axis=1)
    return xy, np.stack([2 * step + row % 2, row], axis=1)


def table_of(region: str, col_row: np.ndarray | None, n: int, seed: int = 0, **obs) -> anndata.AnnData:
    """A table of 4 genes and one antibody, raw counts in X, annotating `region`; spot_id 0, 1, ..."""
    counts = np.random.default_rng(seed).poisson(3, (n, 5)).astype(np.float32)
    columns = {"spot_id": np.arange(n), "region": pd.Categorical([region] * n)} | obs
    if col_row is not None:
        columns |= {"array_col": col_row[:, 0], "array_row": col_row[:, 1]}
    var = pd.DataFrame({"gene_ids": [f"ENSG{k}" for k in range(5)],
                        "feature_types": ["Gene Expression"] * 4 + ["Antibody Capture"]},
                       index=["GA", "GB", "GC", "GD", "CD3"])
    names = [f"{region}-{k}" for k in range(n)]
    return anndata.AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame(columns, index=names), var=var)


def picture(width: int = 160, height: int = 120, dtype=np.uint8, top: float = 255) -> np.ndarray:
    """(3, height, width): red to the right, green downwards, blue constant; 0 to `top`."""
    red, green = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    values = np.stack([red, green, np.full_like(red, 0.5)]) * top
    return values.astype(dtype) if np.dtype(dtype).kind == "f" else np.rint(values).astype(dtype)


def parsed_image(pixels: np.ndarray, transformations: dict, scales: list[int] | None = None, **more):
    from spatialdata.models import Image2DModel
    return Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=transformations, scale_factors=scales,
                              **more)


def parsed_table(table: anndata.AnnData, region: str | list[str]):
    from spatialdata.models import TableModel
    return TableModel.parse(table, region=region, region_key="region", instance_key="spot_id")


def visium(path: Path, name: str = "S1", version: str = "0.2", seed: int = 0, *, pixels: np.ndarray | None = None,
           in_global: bool = True, more_images: dict | None = None, **obs) -> np.ndarray:
    """A store as spatialdata-io writes it for Visium; returns x, y of its spots in full-resolution px (n, 2)."""
    import spatialdata
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity, Scale
    xy, col_row = hex_centres()
    hires = Scale([HIRES, HIRES], axes=("y", "x"))
    systems = {"downscaled_hires": hires} | ({"global": Identity()} if in_global else {})
    spots = ShapesModel.parse(xy, geometry=0, radius=RADIUS, index=np.arange(len(xy)), transformations=systems)
    image_systems = {"downscaled_hires": Identity()} | ({"global": hires.inverse()} if in_global else {})
    images = {f"{name}_hires_image": parsed_image(picture() if pixels is None else pixels, image_systems)}
    low = Scale([HIRES / 2, HIRES / 2], axes=("y", "x"))
    images[f"{name}_lowres_image"] = parsed_image(picture(80, 60), {"global": low.inverse()})
    table = parsed_table(table_of(name, col_row, len(xy), seed, **obs), name)
    data = spatialdata.SpatialData(images=images | (more_images or {}), shapes={name: spots}, tables={"table": table})
    write(data, path, version)
    return xy


def write(data, path: Path, version: str = "0.2") -> None:
    """Write a store as container version 0.2 (Zarr 3) or 0.1 (Zarr 2)."""
    from spatialdata._io.format import SpatialDataContainerFormatV01
    data.write(path, **({"sdata_formats": SpatialDataContainerFormatV01()} if version == "0.1" else {}))


def two_sections(path: Path) -> None:
    """A store of two sections in systems of their own, A turned by 90 degrees and moved; one table annotates both."""
    import spatialdata
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Affine, Identity, Sequence, Translation
    xy, col_row = hex_centres()
    turn = Affine(np.array([[0, -1, 500.0], [1, 0, 20.0], [0, 0, 1]]), input_axes=("x", "y"), output_axes=("x", "y"))
    move = Translation([7.0, -3.0], axes=("x", "y"))
    shapes = {"A": ShapesModel.parse(xy, geometry=0, radius=RADIUS, transformations={"of_A": Identity()}),
              "B": ShapesModel.parse(xy, geometry=0, radius=RADIUS,
                                     transformations={"of_B": Sequence([move, turn])})}
    images = {"A_he": parsed_image(picture(640, 480), {"of_A": Identity()}, [2]),
              "B_he": parsed_image(picture(640, 480), {"of_B": turn}, [2])}
    tables = [table_of(name, col_row, len(xy), seed) for seed, name in enumerate("AB")]
    both = anndata.concat(tables, merge="same")
    both.obs["region"] = both.obs["region"].astype("category")
    write(spatialdata.SpatialData(images=images, shapes=shapes, tables={"table": parsed_table(both, ["A", "B"])}), path)


def visium_hd(path: Path, um_per_px: float = 0.5) -> None:
    """Bins of 8 and 16 um as squares, a table each, and an image whose px are full-resolution px."""
    import geopandas
    import shapely
    import spatialdata
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity, Scale
    um = Scale([um_per_px, um_per_px], axes=("x", "y"))
    shapes, tables = {}, {}
    for size, n_side in ((8, 12), (16, 6)):
        side = size / um_per_px
        row, column = np.divmod(np.arange(n_side**2), n_side)
        left, top = 10 + side * column, 20 + side * row
        squares = geopandas.GeoDataFrame(geometry=shapely.box(left, top, left + side, top + side))
        region = f"H_square_{size:03d}um"
        shapes[region] = ShapesModel.parse(squares, transformations={"global": Identity(), "microns": um})
        table = table_of(region, np.stack([column, row], axis=1), n_side**2)
        tables[f"square_{size:03d}um"] = parsed_table(table, region)
    images = {"H_full_image": parsed_image(picture(220, 230), {"global": Identity(), "microns": um})}
    write(spatialdata.SpatialData(images=images, shapes=shapes, tables=tables), path)
