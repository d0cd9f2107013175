"""Tissue without a counterpart: pieces of a section under which no other section of the block has tissue.

Control tissue of another block, a second section on the same slide, a piece that the other sections have lost. The
pieces of all sections are laid in one frame and linked where they overlap. The main tissue is the linked group that
lies in most sections. A piece of another group has no counterpart if its group lies in one section alone, or in no
measured section although one is measured: what is imputed there rests on no measurement of that tissue.
"""
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from common.pieces import Piece, label_pieces, nearest_piece, pieces_of
from registration.quality import judge
from registration.sections import Section, render_pair
from registration.transforms import Transform, apply_to_points, identity, in_frames, invert, move, move_back

MARGIN = 0.03           # tissue so near counts as overlap: of the square root of the other section's tissue area
MIN_COMMON = 0.10       # share of a piece that overlaps a piece of another section, from which on the two are linked
MIN_PIECE = 0.01        # pieces below this share of the section's tissue are not named
MIN_TOTAL = 0.03        # nor are pieces that make less than this share of it together
SAMPLED = 4000          # points of a section whose tissue is looked up in the others
TISSUE_PX = 320         # longer side of the larger tissue in the compared renderings


@dataclass(frozen=True)
class Parts:
    """The pieces of a section."""
    section: Section
    labels: np.ndarray          # (h, w) int32, 0 on the slide
    pieces: list[Piece]
    to_frame: Transform         # level-0 px -> the common frame

    @classmethod
    def of(cls, section: Section, to_frame: Transform) -> "Parts":
        labels = label_pieces(section.mask)
        scale = np.diag(section.to_level0[:, :2])
        return cls(section, labels, pieces_of(labels, scale), to_frame)

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """(points (n, 2) of the tissue in the common frame, the label of each (n,)). Each piece has points."""
        row, column = np.nonzero(self.labels)
        label = self.labels[row, column]
        order = np.argsort(label, kind="stable")[::max(1, len(label) // SAMPLED)]
        at = np.column_stack([column, row])[order]  # (n, 2)
        return move(self.to_frame, apply_to_points(self.section.to_level0, at)), label[order]

    def near(self) -> np.ndarray:
        """The label of the piece at or near every px, 0 where there is none: (h, w) int32."""
        return nearest_piece(self.labels, MARGIN * np.sqrt(max(int((self.labels > 0).sum()), 1)))

    def under(self, points: np.ndarray, near: np.ndarray) -> np.ndarray:
        """The label at each point (n, 2) of the common frame, of `near` (h, w); 0 outside the picture. (n,) int."""
        at = apply_to_points(invert(self.section.to_level0), move_back(self.to_frame, points))
        column, row = np.rint(at).astype(int).T
        inside = (column >= 0) & (column < near.shape[1]) & (row >= 0) & (row < near.shape[0])
        found = np.zeros(len(points), int)
        found[inside] = near[row[inside], column[inside]]
        return found


@dataclass(frozen=True)
class Alone:
    """A piece of tissue without counterpart."""
    piece: Piece
    also_in: tuple[int, ...]    # other layers with the same tissue, none of them measured


@dataclass(frozen=True)
class Linked:
    """The pieces of all sections, linked where they overlap."""
    parts: dict[int, Parts]
    group: dict[tuple[int, int], int]       # of (layer, label of the piece)
    layers_of: dict[int, set[int]]          # by group
    main: int                               # the group that lies in most sections

    @classmethod
    def of(cls, sections: dict[int, Section], to_frame: dict[int, Transform]) -> "Linked":
        parts = {layer: Parts.of(sections[layer], to_frame[layer]) for layer in sections}
        nodes = [(layer, piece.label) for layer, one in parts.items() for piece in one.pieces]
        group = dict(zip(nodes, _groups(nodes, _links(parts)), strict=True))
        layers_of, area_of = _extent(parts, group)
        return cls(parts, group, layers_of, max(layers_of, key=lambda one: (len(layers_of[one]), area_of[one])))


def without_counterpart(sections: dict[int, Section], to_frame: dict[int, Transform],
                        measured: Collection[int] = ()) -> dict[int, list[Alone]]:
    """The pieces without counterpart of every section that has some; empty for fewer than two sections.

    sections: by layer; to_frame: level-0 px -> one frame; measured: the layers with counts.
    """
    if len(sections) < 2:
        return {}
    linked = Linked.of(sections, to_frame)
    known = set(measured) & set(sections)
    alone = {one for one, layers in linked.layers_of.items()
             if one != linked.main and (len(layers) == 1 or (known and not layers & known))}
    found = {}
    for layer, one in linked.parts.items():
        own = []
        for piece in one.pieces:
            number = linked.group[layer, piece.label]
            if number in alone and piece.share >= MIN_PIECE:
                own.append(Alone(piece, tuple(sorted(linked.layers_of[number] - {layer}))))
        if total_share(own) >= MIN_TOTAL:
            found[layer] = own
    return found


def on_several_pieces(sections: dict[int, Section], to_frame: dict[int, Transform], sample: str) -> list[str]:
    """A line for each section that lies over another piece of its neighbour than the rest of the stack does.

    So do the neighbours of a slide with two sections of the block. Arguments as of without_counterpart.
    """
    if len(sections) < 2:
        return []
    linked, lines = Linked.of(sections, to_frame), []
    with_main = linked.layers_of[linked.main]
    for layer in sorted(set(sections) - with_main):
        own = {linked.group[layer, piece.label] for piece in linked.parts[layer].pieces}
        for other in sorted(with_main):
            pieces = [f"[{piece.point[0]:.0f}, {piece.point[1]:.0f}]" for piece in linked.parts[other].pieces
                      if linked.group[other, piece.label] in own and piece.share >= MIN_PIECE]
            if pieces:
                at = ", ".join(pieces)
                rest = ", ".join(map(str, sorted(with_main - {other})))
                lines.append(
                    f"section {layer} lies over the tissue at {at} of section {other} alone, and not over section "
                    f"{rest}: their common frame is wrong. Two sections on the slide of section {other}? To leave one "
                    f"out: samples.{sample}.leave_out: {{{other}: [{at}]}} in dataset.yaml, then run 0_2 and all that "
                    "follows again")
    return lines


def total_share(alone: list[Alone]) -> float:
    """Of the section's tissue."""
    return sum(one.piece.share for one in alone)


def _links(parts: dict[int, Parts]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Pairs of ((layer, label), (layer, label)) of pieces that overlap."""
    links, points_of = [], {layer: one.points() for layer, one in parts.items()}
    for other in parts:
        near = parts[other].near()
        for layer in [layer for layer in parts if layer != other]:
            points, labels = points_of[layer]
            n_points, under = np.bincount(labels), parts[other].under(points, near)
            pairs, counts = np.unique(np.column_stack([labels, under]), axis=0, return_counts=True)
            links += [((layer, int(label)), (other, int(partner)))
                      for (label, partner), count in zip(pairs, counts, strict=True)
                      if partner and count >= MIN_COMMON * n_points[label]]
    return links


def _groups(nodes: list[tuple[int, int]], links: list[tuple[tuple[int, int], tuple[int, int]]]) -> list[int]:
    """The group of every node: nodes that links join, directly or through others."""
    number = {node: k for k, node in enumerate(nodes)}
    rows, columns = ([number[link[side]] for link in links] for side in (0, 1))
    joined = coo_matrix((np.ones(len(links)), (rows, columns)), shape=(len(nodes), len(nodes)))
    return connected_components(joined, directed=False)[1].tolist()


def _extent(parts: dict[int, Parts], group: dict[tuple[int, int], int]) -> tuple[dict[int, set[int]], dict[int, float]]:
    """({group: its layers}, {group: sum over its pieces of their share of the section's tissue})."""
    layers_of: dict[int, set[int]] = {}
    area_of: dict[int, float] = {}
    for layer, one in parts.items():
        for piece in one.pieces:
            number = group[layer, piece.label]
            layers_of.setdefault(number, set()).add(layer)
            area_of[number] = area_of.get(number, 0.0) + piece.share
    return layers_of, area_of


# one pair ---------------------------------------------------------------------------------------------
def remark_on_pair(sections: dict[int, Section], transform: Transform,
                   um_per_px: tuple[float, float]) -> tuple[str | None, dict[int, np.ndarray]]:
    """(what to say of the pieces of a pair without counterpart, or None; {layer: (h, w) bool, these pieces}).

    sections: the moving and the fixed one; transform: level-0 px of the moving -> of the fixed; um_per_px: of both.
    """
    moving, fixed = sections
    alone = without_counterpart(sections, {moving: transform, fixed: Transform(identity())})
    if not alone:
        return None, {}
    masks, rest = {}, dict(sections)
    for layer, pieces in alone.items():
        section = sections[layer]
        masks[layer] = np.isin(label_pieces(section.mask), [one.piece.label for one in pieces])
        rest[layer] = replace(section, mask=section.mask & ~masks[layer])
    renderings = render_pair(rest[moving], rest[fixed], um_per_px, TISSUE_PX)
    rendered = in_frames(transform, *(invert(one.to_level0) for one in renderings))
    dice = judge(*renderings, rendered)["tissue_dice"]
    texts = []
    for layer, pieces in alone.items():
        other = fixed if layer == moving else moving
        texts.append(f"{in_words(pieces)} of section {layer}, {total_share(pieces):.0%} of its tissue, without "
                     f"counterpart in section {other}")
    return f"{', '.join(texts)}; tissue Dice without {dice:.2f}", masks


def in_words(pieces: list[Alone]) -> str:
    """'1 piece at [x, y]', '2 pieces at [x, y], [x, y]' (level-0 px)."""
    at = ", ".join(f"[{one.piece.point[0]:.0f}, {one.piece.point[1]:.0f}]" for one in pieces)
    return f"{len(pieces)} piece{'s' * (len(pieces) > 1)} at {at}"


# one sample -------------------------------------------------------------------------------------------
def entries_of(alone: dict[int, list[Alone]], sections: dict[int, Section],
               um_per_px: dict[int, float]) -> list[dict]:
    """One entry a piece for quality.json: layer, point [x, y] (level-0 px), area_mm2, share of the section's tissue,
    also_in (other layers with the same tissue, none of them measured).
    """
    found = []
    for layer, pieces in alone.items():
        mm2_per_px = abs(np.linalg.det(sections[layer].to_level0[:, :2])) * (um_per_px[layer] / 1000) ** 2
        found += [{"layer": layer, "point": list(one.piece.point), "area_mm2": round(one.piece.area_px * mm2_per_px, 4),
                   "share": round(one.piece.share, 4), "also_in": list(one.also_in)} for one in pieces]
    return found


def warnings_of(entries: list[dict], sample: str, judged: list[int], measured: Collection[int]) -> list[str]:
    """A line for each section with such pieces: how many, how large, where, what they do, how to leave them out."""
    lines = []
    for layer in sorted({one["layer"] for one in entries}):
        own = [one for one in entries if one["layer"] == layer]
        points = [f"[{one['point'][0]:.0f}, {one['point'][1]:.0f}]" for one in own]
        places = ", ".join(f"{one['area_mm2']:.3g} mm2 at {at}" for one, at in zip(own, points, strict=True))
        shared = any(one["also_in"] for one in own)
        lacking = sorted(measured) if shared else [one for one in judged if one != layer]
        where = f"{'measured ' * shared}section{'s' * (len(lacking) > 1)} {', '.join(map(str, lacking))}"
        share = sum(one["share"] for one in own)
        lines.append(
            f"section {layer}: {len(own)} piece{'s' * (len(own) > 1)} of tissue, {share:.0%} of it, without "
            f"counterpart in {where}: {places}. Control tissue? To leave it out: "
            f"samples.{sample}.leave_out: {{{layer}: [{', '.join(points)}]}} in dataset.yaml, then run 0_2 and all "
            "that follows again; until then its spots are marked in obs['foreign_tissue']")
    return lines
