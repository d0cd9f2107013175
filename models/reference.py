"""The released network's arithmetic, 2D and 3D, faults included, for comparison (Zhu et al., CVPR 2025, released code).

It is not the network of this repository; that is models/msagnet.py, for the reasons in the README, 'What we changed'.
Here the cross-attention has one key per query, so it ignores the spot's own image (which is no input); a reshape mixes
the features of different nodes; the score of a node cancels when rows are normalised. `from_state` loads released
parameters by their own names; `train` follows the released recipe on labels of known layers alone.

    graph = ReferenceGraph(region_feature, global_feature, ...)   plain tensors, named as in a SampleGraph
    model = train([graph, ...], [pool, ...], three_d=True)        pool (n,) bool: the spots whose labels may be used;
                                                                  the recipe's small steps learn faster with a larger D
                                                                  (released: 1024)
    expression = predict(model, graph, known)                     known (n,) bool: the spots whose labels are given (3D)
"""
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import DataError
from models.losses import one_minus_pcc

DEPTH = 3
ROUNDS = 20
MIN_DEGREE = 1e-10
CONTEXT_SHARE = 0.25
# parameters without effect: those in checkpoints only, and those in the modules too
NEVER_ACT = ("encoder.", "transformer.encoder_layer.", "gene_head_512.", "gene_head_1024.", "lstm_512.")
UNUSED = ("query_proj.", "key_proj.", "att_weight")
MSE_FACTOR = 0.75
# three_d: factors of 1 - PCC of spots, of each level, of each consistency
PCC_FACTORS = {True: (0.25, 0.125, 0.125), False: (0.1, 0.1, 0.1)}


@dataclass(frozen=True)
class ReferenceGraph:
    """One sample (3D) or one layer (2D): n spots, R regions, Q globals, D features (a multiple of the heads), G genes.

    Edges are [source; target]; a node averages its sources. Spots in 3D: the union-symmetric 12 highest weights and 4
    nearest of the own layer; in 2D: the 8 nearest on the array, directed (common.lattice.nearest_on_lattice(array, 8)).
    A missing label may be any finite number.
    """
    region_feature: Tensor     # (R, D)
    global_feature: Tensor     # (Q, D)
    region_of_spot: Tensor     # (n,) int64
    global_of_spot: Tensor     # (n,) int64
    spot_edges: Tensor         # (2, E) int64
    region_edges: Tensor       # (2, E')
    global_edges: Tensor       # (2, E'')
    label: Tensor              # (n, G)
    region_label: Tensor       # (R, G)
    global_label: Tensor       # (Q, G)
    region_in_loss: Tensor     # (R,) bool: labelled, and of a layer that trains
    global_in_loss: Tensor     # (Q,) bool

    def to(self, device: torch.device | str) -> "ReferenceGraph":
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def inputs(self, known: Tensor) -> tuple[Tensor, ...]:
        """Arguments of Reference.forward, with the labels of the known spots (n,) bool."""
        return (self.region_feature[self.region_of_spot], self.global_feature[self.global_of_spot],
                self.region_feature, self.global_feature, self.spot_edges, self.region_edges, self.global_edges,
                torch.where(known.unsqueeze(1), self.label, 0.0))

    def of_spots(self, rows: Tensor) -> "ReferenceGraph":
        """The sub-graph of these spots (m,) and of all regions and globals."""
        new = torch.full((len(self.label),), -1, device=rows.device)
        new[rows] = torch.arange(len(rows), device=rows.device)
        edges = new[self.spot_edges]
        return replace(self, spot_edges=edges[:, (edges >= 0).all(dim=0)], region_of_spot=self.region_of_spot[rows],
                       global_of_spot=self.global_of_spot[rows], label=self.label[rows])


# pieces ----------------------------------------------------------------------------------------------
def neighbour_mean(x: Tensor, edges: Tensor) -> Tensor:
    """Mean of x (n, d) over the sources of each node, 0 where it has none: the row-normalised 0/1 adjacency times x."""
    source, target = edges
    ones = torch.ones_like(target, dtype=x.dtype)
    degree = torch.zeros(len(x), dtype=x.dtype, device=x.device).index_add(0, target, ones)
    return torch.zeros_like(x).index_add(0, target, x[source]) / degree.clamp_min(MIN_DEGREE).unsqueeze(1)


def propagate(label: Tensor, edges: Tensor, rounds: int = ROUNDS) -> Tensor:
    """Known labels spread over the graph: (n, G) -> (n, G).

    label: 0 where unknown; a row is known if its sum is not 0.
    """
    known, y = label.sum(dim=1, keepdim=True) != 0, label
    for _ in range(rounds):
        y = torch.where(known, label, neighbour_mean(y, edges))
    return y


class OneKeyAttention(nn.Module):
    """Cross-attention with one key per query: the softmax is 1, so the value passes.

    Query and key have no effect; checkpoints contain them.
    """

    def __init__(self, width: int):
        super().__init__()
        self.query_proj, self.key_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.value_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, value: Tensor) -> Tensor:
        return self.out_proj(self.value_proj(value))  # (n, width)


class GraphBlock(nn.Module):
    """Neighbour mean times the node's softmax over ALL nodes, linear, relu, rows scaled to length 1."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, width)))
        self.att_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, 1)))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        score = torch.softmax(x @ self.att_weight, dim=0)  # (n, 1)
        return F.normalize(torch.relu((score * neighbour_mean(x, edges)) @ self.weight.T), dim=1)  # (n, width)


class MixingTransformer(nn.Module):
    """Three post-norm encoder layers over `view(n, 3, width)` of a (3, n, width) stack.

    So the tokens of a node come from other nodes.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.positional_encoding = nn.Parameter(torch.randn(DEPTH, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)

    def encoded(self, stack: Tensor) -> Tensor:
        """(3, n, width) -> the stack with the encoding added to the view's rows, in place in the released code."""
        return (stack.reshape(-1, DEPTH, stack.shape[2]) + self.positional_encoding).reshape(stack.shape)

    def forward(self, encoded: Tensor, n_last: int) -> Tensor:
        """(3, n, width) -> (n_last, width), the last of the view's n rows: rows do not affect each other."""
        return self.transformer_encoder(encoded.reshape(-1, DEPTH, encoded.shape[2])[-n_last:]).mean(dim=1)


class Reference(nn.Module):
    """The released network; parameters are named as in its checkpoints."""

    def __init__(self, width: int, n_genes: int, heads: int = 8, three_d: bool = True):
        super().__init__()
        self.three_d = three_d
        if three_d:
            self.alpha = nn.Parameter(torch.randn(n_genes))
        self.cross_attention_512, self.cross_attention_1024 = OneKeyAttention(width), OneKeyAttention(width)
        self.gat_layer_224, self.gat_layer_512, self.gat_layer_1024 = (
            nn.ModuleList(GraphBlock(width) for _ in range(DEPTH)) for _ in range(3))
        self.transformer = MixingTransformer(width, heads)
        self.gene_head_250 = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_genes))

    def forward(self, region_of_spot: Tensor, global_of_spot: Tensor, region: Tensor, global_: Tensor,
                spot_edges: Tensor, region_edges: Tensor, global_edges: Tensor,
                known_label: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Expression of spots (n, G), regions (R, G), globals (Q, G).

        region_of_spot, global_of_spot (n, width): the features of the patches that a spot lies in; region (R, width),
        global_ (Q, width); known_label (n, G), 0 where unknown: 3D only.
        """
        spot = self.cross_attention_512(region_of_spot) + self.cross_attention_1024(global_of_spot)  # (n, width)
        spot = torch.stack([block(spot, spot_edges) for block in self.gat_layer_224])  # (3, n, width)
        region = torch.stack([block(region, region_edges) for block in self.gat_layer_512])  # (3, R, width)
        global_ = torch.stack([block(global_, global_edges) for block in self.gat_layer_1024])  # (3, Q, width)
        tokens = self._joined(spot, region, global_) if self.three_d else (spot, region, global_)
        spot_out, region_out, global_out = (
            self.gene_head_250(self.transformer(self.transformer.encoded(stack), level.shape[1]))
            for stack, level in zip(tokens, (spot, region, global_), strict=True))
        if self.three_d:
            assert known_label is not None  # always given in 3D
            imputed_share = torch.sigmoid(self.alpha)  # (G,)
            spot_out = imputed_share * propagate(known_label, spot_edges) + (1 - imputed_share) * spot_out
        return spot_out, region_out, global_out

    def _joined(self, spot: Tensor, region: Tensor, global_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each level behind the one above it, along the nodes; the globals keep the encoding of their own pass."""
        return torch.cat([region, spot], dim=1), torch.cat([self.transformer.encoded(global_), region], dim=1), global_


# checkpoints -----------------------------------------------------------------------------------------
def from_state(state: dict[str, Tensor], heads: int = 8,
               file: Path | str = "checkpoint") -> tuple[Reference, list[str]]:
    """The network with these parameters, in evaluation mode, and the sorted names of those without effect.

    Raises DataError if a parameter is missing, unknown or of another shape.
    """
    left_out = sorted(name for name in state if name.startswith(NEVER_ACT))
    acting = {name: value for name, value in state.items() if name not in left_out}
    try:
        n_genes, width = acting["gene_head_250.1.weight"].shape
        model = Reference(width, n_genes, heads, three_d="alpha" in acting)
        model.load_state_dict(acting)
    except (KeyError, RuntimeError, AssertionError) as error:
        raise DataError(file, f"other parameters than the released ones ({error})", "a released checkpoint",
                        "give another file, or other heads") from None
    return model.eval(), left_out + sorted(name for name in acting if any(part in name for part in UNUSED))


# the released recipe ---------------------------------------------------------------------------------
def loss(out: tuple[Tensor, Tensor, Tensor], graph: ReferenceGraph, three_d: bool) -> Tensor:
    """The multi-level loss on all spots of a sub-graph and on the regions and globals that are in the loss."""
    spot, region, global_ = out
    of_spot, of_level, of_consistency = PCC_FACTORS[three_d]
    regions, globals_ = graph.region_in_loss, graph.global_in_loss
    level = (one_minus_pcc(region[regions], graph.region_label[regions])
             + one_minus_pcc(global_[globals_], graph.global_label[globals_]))
    consistency = (one_minus_pcc(region[graph.region_of_spot], graph.label)
                   + one_minus_pcc(global_[graph.global_of_spot], graph.label))
    return (MSE_FACTOR * F.mse_loss(spot, graph.label) + of_spot * one_minus_pcc(spot, graph.label)
            + of_level * level + of_consistency * consistency)


def train(graphs: list[ReferenceGraph], pools: list[Tensor], three_d: bool, *, heads: int = 8, epochs: int = 51,
          batch_size: int = 128, base_lr: float = 0.001, seed: int = 0, device: torch.device | str = "cpu",
          log: Callable | None = None) -> Reference:
    """Train by the released recipe; returns the network in evaluation mode.

    SGD, momentum 0.9, lr = base_lr (1 - it / max_it)^0.9, batches of pool spots and their sub-graph.
    pools: (n,) bool per graph, the spots whose labels may be used; no other spot label is read. The caller sets
    region_in_loss and global_in_loss: labelled patches of training layers. 3D: a quarter of a batch is context and, as
    released, stays in the loss. log: callable(iteration, {name: value}).
    Raises DataError if no spot is labelled, FloatingPointError if the loss is not finite.
    """
    if not any(bool(pool.any()) for pool in pools):
        raise DataError("training", "no labelled spot", "labels on known sections", "see status.json")
    torch.manual_seed(seed)
    width, n_genes = graphs[0].region_feature.shape[1], graphs[0].label.shape[1]
    model = Reference(width, n_genes, heads, three_d).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=base_lr, momentum=0.9)
    graphs, generator = [graph.to(device) for graph in graphs], torch.Generator().manual_seed(seed)
    batches = []  # (graph, rows)
    for _ in range(epochs):
        for k, pool in enumerate(pools):
            batches += [(k, rows) for rows in shuffled(pool, generator).split(batch_size) if len(rows)]
    for iteration, (k, rows) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = base_lr * (1 - iteration / len(batches)) ** 0.9
        batch = graphs[k].of_spots(rows.to(device))
        context = (torch.rand(len(rows), generator=generator) < CONTEXT_SHARE).to(device)
        value = loss(model(*batch.inputs(context)), batch, three_d)
        if not torch.isfinite(value):
            raise FloatingPointError(f"the loss is {value.item()} at iteration {iteration}")
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if log:
            log(iteration, {"train/loss": value.item(), "train/lr": optimizer.param_groups[0]["lr"]})
    return model.eval()


def shuffled(pool: Tensor, generator: torch.Generator) -> Tensor:
    """The indices where pool (n,) is True, in random order."""
    rows = torch.where(pool.cpu())[0]
    return rows[torch.randperm(len(rows), generator=generator)]


@torch.no_grad()
def predict(model: Reference, graph: ReferenceGraph, known: Tensor) -> Tensor:
    """Expression of every spot (n, G), on the CPU: the whole graph at once, nothing random.

    known: (n,) bool, the spots whose labels are given (3D).
    """
    device = next(model.parameters()).device
    return model(*graph.to(device).inputs(known.to(device)))[0].cpu()
