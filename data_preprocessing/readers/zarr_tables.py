"""The tables of a SpatialData store: counts, positions of their rows, and the array that these lie on."""
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import LayerError
from common.files import newest_ns
from common.geometry import median_spacing_px
from data_preprocessing.readers import spot_array
from data_preprocessing.readers.gene_names import gene_expression, gene_names
from data_preprocessing.readers.h5ad_counts import Counts, no_counts, rounded
from data_preprocessing.readers.h5ad_positions import on_tissue
from data_preprocessing.readers.spot_array import MIN_SPOTS
from data_preprocessing.readers.zarr_store import Annotation, attributes, reading_store, table_folder

SAME_AREA = 1.1      # outlines that differ by more are cells, and no squares of an array


def of_part(store: Path, found: list[Annotation], part: str) -> tuple[str, str | None]:
    """(table, region) that a part of an entry names: a region, a table, or <table>/<region>. Raises LayerError."""
    table, _, region = part.rpartition("/")
    if part and not region:  # a table without a region: '<table>/'
        region, table = "", part.rstrip("/")
    of_region = [one for one in found if region in one.regions and table in ("", one.table)]
    by_name = [one for one in found if one.table in (part, table) and not of_region and len(one.regions) < 2]
    chosen = of_region or by_name or (found if not part else [])
    if len(chosen) > 1:
        chosen = [one for one in chosen if _holds_counts(table_folder(store, one.table))] or chosen
    if len(chosen) != 1:
        regions = sorted({name for one in found for name in one.regions})
        there = f"tables {', '.join(one.table for one in found)}; regions {', '.join(regions) or 'none'}"
        if not chosen:
            raise LayerError(store, f"no region {part} ({there})", "a region that a table annotates",
                             "correct the name behind # in the config")
        names = ", ".join(one.table for one in chosen)
        raise LayerError(store, f"{len(chosen)} tables of the region {region} ({names})", "one table of raw counts",
                         f"name it: '{store.name}#{chosen[0].table}/{region}'")
    one = chosen[0]
    return one.table, region if region in one.regions else next(iter(one.regions), None)


def _holds_counts(folder: Path) -> bool:
    try:
        return _counts(folder, newest_ns(folder))[0] is not None
    except LayerError:
        return False


@lru_cache(maxsize=2)
def _counts(folder: Path, _changed: int):
    """((matrix CSR float32 (n_rows, n_genes), var, its name, a note) of the raw counts with most genes, or None;
    why the other matrices are none).
    """
    from scipy import sparse
    best, reasons = None, []
    with reading_store(folder):
        import zarr
        from anndata.io import read_elem
        group = zarr.open_group(folder, mode="r", use_consolidated=False)
        for matrix, var in (("layers/counts", "var"), ("raw/X", "raw/var"), ("X", "var")):
            if matrix not in group:
                continue
            values = sparse.csr_matrix(read_elem(group[matrix]), dtype=np.float32)  # (n_rows, n_genes)
            if best is not None and values.shape[1] <= best[0].shape[1]:
                continue
            reason, note = rounded(values, values.shape)
            if reason:
                reasons.append(f"{matrix.replace('/', '.')} ({reason})")
            else:
                best = values, read_elem(group[var]), var.replace("/", "."), note
    return best, reasons


def _obs(folder: Path) -> pd.DataFrame:
    with reading_store(folder):
        import zarr
        from anndata.io import read_elem
        return read_elem(zarr.open_group(folder, mode="r", use_consolidated=False)["obs"])


def _rows(folder: Path, obs: pd.DataFrame, region: str | None) -> np.ndarray:
    """(n_rows,) bool: the rows of a region. Raises LayerError if there is none."""
    key = attributes(folder).get("region_key")
    if region is None or key is None:
        return np.ones(len(obs), bool)
    if key not in obs:
        raise LayerError(folder, f"no obs['{key}'] (obs: {', '.join(map(str, obs)) or 'empty'})",
                         "the column that names the region of a row", "write the store again with SpatialData")
    rows = (obs[key].astype(str) == region).to_numpy()
    if not rows.any():
        raise LayerError(folder, f"no row of the region {region}", f"rows with obs['{key}'] {region}",
                         "correct the name behind # in the config")
    return rows


def raw_counts(folder: Path, region: str | None) -> Counts:
    """The raw counts of the region's rows, the gene names as of AnnData files. Raises LayerError without raw counts."""
    import anndata
    found, reasons = _counts(folder, newest_ns(folder))
    if found is None:
        raise no_counts(folder, reasons)
    values, var, name, note = found
    obs = _obs(folder)
    rows, (of_genes, dropped) = _rows(folder, obs, region), gene_expression(var)
    genes = gene_names(var[of_genes], folder, name, lambda: None)
    kept = pd.DataFrame(index=genes.names.rename(None))
    if genes.ids is not None:
        kept["gene_ids"] = genes.ids
    names = pd.DataFrame(index=obs.index[rows].astype(str).rename(None))
    table = anndata.AnnData(values[rows][:, of_genes][:, genes.kept].tocsr(), obs=names, var=kept)
    return Counts(table, [*filter(None, [note]), *genes.notes],
                  {**dropped, "genes without a name": int((~genes.kept).sum())})


# positions -------------------------------------------------------------------------------------------
def positions(folder: Path, region: str | None, element) -> tuple[pd.DataFrame, int]:
    """(barcode, x, y, on_tissue, and array_col, array_row if stored, of the region's rows; rows without a position).

    x, y: of the spots' own coordinates. element: circles, squares or points; None: obsm['spatial']. Raises LayerError.
    """
    obs = _obs(folder)
    rows = _rows(folder, obs, region)
    own = obs[rows]
    if element is None:
        xy = _of_obsm(folder)[rows]  # (n, 2)
    else:
        instances = attributes(folder).get("instance_key")
        if instances not in own:
            raise LayerError(folder, f"no obs['{instances}'] (obs: {', '.join(map(str, obs)) or 'empty'})",
                             "the column that names the spot of a row", "write the store again with SpatialData")
        xy = _centres(element, folder, region, own[instances].to_numpy())
    table = pd.DataFrame({"barcode": own.index.astype(str), "x": xy[:, 0], "y": xy[:, 1],
                          "on_tissue": on_tissue(own, folder)})
    if {"array_col", "array_row"} <= set(own):
        table["array_col"], table["array_row"] = own["array_col"].to_numpy(), own["array_row"].to_numpy()
    there = np.isfinite(xy).all(axis=1)
    if not there.any():
        raise LayerError(folder, f"no row whose spot is in {region}", "instances of that region",
                         "write the store again with SpatialData")
    return table[there].reset_index(drop=True), int((~there).sum())


def _of_obsm(folder: Path) -> np.ndarray:
    """(n_rows, 2): obsm['spatial']. Raises LayerError if it is missing: then the rows have no spots at all."""
    with reading_store(folder):
        import zarr
        from anndata.io import read_elem
        group = zarr.open_group(folder, mode="r", use_consolidated=False)
        there = sorted(group["obsm"]) if "obsm" in group else []
        xy = np.asarray(read_elem(group["obsm/spatial"]), np.float64) if "spatial" in there else np.zeros((0, 0))
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise LayerError(folder, f"no spots in shapes/ or points/, and no obsm['spatial'] (obsm: "
                                 f"{', '.join(there) or 'empty'})", "spots as shapes, or points, or obsm['spatial']",
                         "add the spots to the store: SpatialData annotates labels and cells otherwise")
    return xy[:, :2]


def _centres(element, folder: Path, region: str | None, instances: np.ndarray) -> np.ndarray:
    """(n, 2): centres of these instances, NaN for one that is not there. Raises LayerError for outlines of cells."""
    if hasattr(element, "geometry"):
        outlines = element.geometry
        if (outlines.geom_type != "Point").any():
            areas = outlines.area.to_numpy()
            if areas.min() <= 0 or areas.max() > SAME_AREA * areas.min():
                raise LayerError(folder, f"outlines of unequal area in {region}: cells", "spots or square bins",
                                 "give the table of spots or bins")
            outlines = outlines.centroid
        table = pd.DataFrame({"x": outlines.x.to_numpy(), "y": outlines.y.to_numpy()}, index=element.index)
    else:
        with reading_store(folder):
            table = element[["x", "y"]].compute()
    if not table.index.isin(instances).any():  # whole numbers in one, text in the other
        table.index, instances = table.index.astype(str), instances.astype(str)
    if table.index.has_duplicates:
        twice = table.index[table.index.duplicated()][0]
        raise LayerError(folder, f"spot {twice} of {region} twice", "one shape a spot", "write the store again")
    return table.reindex(instances).to_numpy(np.float64)


def array_of(spots: pd.DataFrame, px: np.ndarray) -> str | None:
    """'hex' or 'square' by the array columns, else by the positions; None if they do not show it."""
    if "array_col" in spots and len(px) >= MIN_SPOTS:
        total = pd.to_numeric(spots["array_col"], errors="coerce") + pd.to_numeric(spots["array_row"], errors="coerce")
        return "hex" if (total % 2 == 0).all() else "square"
    return spot_array.array_of(px)


def array_positions(spots: pd.DataFrame, px: np.ndarray, array: str, file: Path) -> np.ndarray:
    """(n, 2) column and row: the stored ones, else by the pixels (hex: the column steps by 2). Raises LayerError."""
    if "array_col" in spots:
        return spots[["array_col", "array_row"]].to_numpy()
    pitch = median_spacing_px(px)
    if pitch <= 0:
        raise LayerError(file, f"{len(px)} spots whose distance cannot be measured",
                         "two spots or more, at different places", "correct the positions")
    step = np.array([pitch / 2, pitch * np.sqrt(0.75)]) if array == "hex" else np.array([pitch, pitch])
    return np.rint((px - px.min(axis=0)) / step)
