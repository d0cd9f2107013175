"""Maps on the H&E: measured, predicted and error of a gene, one colour scale a gene; confidence; the stack in 3D."""
from dataclasses import dataclass
from html import escape

import numpy as np

from common.geometry import section_geometry
from report_parts.colours import CONFIDENCE, Scale, error_scale, expression_scale
from report_parts.gather import LayerOfRun, Run
from report_parts.pictures import spot_map
from report_parts.shown import Shown, note, tissue
from report_parts.view3d import plane_of, scene

SPOT_SHARE = {"square": 100 / 200, "hex": 55 / 100}  # diameter over pitch: legacy ST, Visium


@dataclass(frozen=True)
class GeneView:
    """A gene of the page with its two colour scales, the same in every section."""
    name: str
    why: str
    column: int
    mean: float          # of the known sections, else of all predictions; natural-log scale
    expression: Scale
    error: Scale

    def doublings(self, values: np.ndarray) -> np.ndarray:
        """(n_spots, n_genes) natural-log scale -> (n_spots,) log2 of the fold over the mean."""
        return (np.asarray(values[:, self.column], np.float64) - self.mean) / np.log(2)

    def misses(self, one: LayerOfRun) -> np.ndarray:
        """(n_spots,) predicted − measured, in doublings."""
        return self.doublings(one.adata.X) - self.doublings(one.measured)


def gene_views(run: Run, chosen: dict[str, str]) -> list[GeneView]:
    """The chosen genes with their scales; an empty list without a prediction."""
    layers = [one for one in run.layers if one.adata is not None]
    measured = [one for one in layers if one.measured is not None]
    known = [one.measured for one in measured if one.role == "known"]
    unit = "mean of the known sections" if known else "mean of the predictions"
    reference = known or [one.adata.X for one in layers]
    views = []
    for name, why in chosen.items() if layers else ():
        column = run.genes.index(name)
        mean = float(np.nanmean(np.concatenate([np.asarray(values)[:, column] for values in reference])))
        plain = GeneView(name, why, column, mean, None, None)
        values = [np.concatenate([plain.doublings(one.adata.X) for one in layers])]
        values += [np.concatenate([plain.doublings(one.measured) for one in measured])] if measured else []
        errors = np.concatenate([plain.misses(one) for one in measured]) if measured else np.zeros(0)
        views.append(GeneView(name, why, column, mean, expression_scale(*values, unit=unit), error_scale(errors)))
    return views


def spot_diameter_px(run: Run, one: LayerOfRun) -> float:
    """Diameter of a drawn spot, level-0 px: that of the array, or this layer's spot distance if less (a dense grid)."""
    pitch_px = section_geometry(run.config, run.layout, one.sample, one.layer).pitch_px
    return min(SPOT_SHARE[run.config.array] * pitch_px, one.spot_distance_px)


def gene_maps(run: Run, layers: list[Shown], gene: GeneView) -> str:
    """Measured, predicted and error of one gene in every section of a sample, on the H&E."""
    rows = "".join(_map_row(run, one, gene) for one in layers if one.of.adata is not None)
    return (f'<div class="gene"><h4>{escape(gene.name)} <small>{escape(gene.why)}</small></h4>'
            f'<div class="bars">{gene.expression.bar()}{gene.error.bar()}</div>{rows}</div>')


def _map_row(run: Run, one: Shown, gene: GeneView) -> str:
    diameter_px = spot_diameter_px(run, one.of)

    def draw(what: str, values: np.ndarray, scale: Scale) -> str:
        return _map(one, diameter_px, f"{gene.name}, {what}", what, values, scale)

    predicted = draw("predicted", gene.doublings(one.of.adata.X), gene.expression)
    if one.of.measured is None:
        why = "not measured" if one.of.role == "image-only" else "no measurement of these genes"
        maps, remark = f'<div class="none">{why}</div>{predicted}', ""
    else:
        measured = draw("measured", gene.doublings(one.of.measured), gene.expression)
        maps = measured + predicted + draw("predicted ÷ measured", gene.misses(one.of), gene.error)
        remark = f"r = {one.of.agreement[gene.column]:.2f}" if one.of.role == "target" else "given to the model"
    return f'<div class="row"><p><b>{one.name}</b> <span>{one.dot}</span> <span>{remark}</span></p>{maps}</div>'


def _map(one: Shown, diameter_px: float, alternative: str, caption: str, values: np.ndarray, scale: Scale) -> str:
    source = spot_map(one.picture, one.of.adata.obsm["spatial"], diameter_px, values, scale)
    inside = (f'<img src="{source}" alt="{escape(alternative)}, {one.name.lower()}" '
              f'data-low="{scale.low:.6g}" data-high="{scale.high:.6g}">')
    return f'<figure>{tissue(one, inside, "map")}<figcaption>{caption}</figcaption></figure>'


def confidence(run: Run, layers: list[Shown]) -> str:
    """Maps of obs['confidence'], 0 to 1: how reliable the prediction of each spot is."""
    with_confidence = [one for one in layers if one.of.adata is not None and "confidence" in one.of.adata.obs]
    if not with_confidence:
        return note("No confidence maps: the predictions have no obs['confidence'].")
    ticks = [(0.0, "0"), (0.5, "0.5"), (1.0, "1")]
    scale = Scale(0.0, 1.0, CONFIDENCE, ticks, "confidence of a spot: 0 = unreliable, 1 = reliable")
    maps = ""
    for one in with_confidence:
        obs = one.of.adata.obs
        values = obs["confidence"].to_numpy(np.float64)
        caption = f"{one.name}, {one.of.role}: median {np.nanmedian(values):.2f}"
        if "distance_to_known" in obs:
            caption += f'; {np.nanmedian(obs["distance_to_known"]):.0f} µm from a known spot'
        maps += _map(one, spot_diameter_px(run, one.of), "confidence", caption, values, scale)
    return f'<div class="bars">{scale.bar()}</div><div class="thumbs">{maps}</div>'


def rotatable(run: Run, layers: list[Shown], genes: list[GeneView]) -> str:
    """The stack in 3D with its controls; drawn by view3d.js."""
    if run.flat:
        return note("No 3D view: a 2D run treats each section separately and has no stack.")
    scales, planes = [gene.expression for gene in genes], []
    for one in layers:
        adata = one.of.adata
        if adata is None or "spatial_3d" not in adata.obsm:
            continue
        values = [gene.doublings(adata.X) for gene in genes]
        plane = plane_of(adata, one.picture, spot_diameter_px(run, one.of), values, scales,
                         f"{one.name} ({one.of.role})", one.style)
        if plane is not None:
            planes.append(plane)
    if not planes or not genes:
        return note("No 3D view: there is no prediction with positions in 3D.")
    options = "".join(f'<option value="{number}">{escape(gene.name)}</option>' for number, gene in enumerate(genes))
    return (f'<div class="view3d"><div class="controls"><label>Gene <select name="gene">{options}</select></label>'
            f'<label>Stretch z <input name="stretch" type="range" min="1" max="3"><output></output></label>'
            f'<label><input name="tissue" type="checkbox" checked> H&amp;E</label></div>'
            f'<canvas tabindex="0" aria-label="The stack in 3D; drag, or use the arrow keys, to turn it"></canvas>'
            f'<p class="hint">Turn by mouse, finger or arrow keys. Predicted expression; z is stretched.</p>'
            f'<div class="bars">{"".join(gene.expression.bar() for gene in genes)}</div>'
            f'<script type="application/json">{scene(planes, genes[0].expression)}</script>'
            f'<noscript>{note("The 3D view needs JavaScript.")}</noscript></div>')
