"""Gene ids: from the counts of the sections to genes.csv, to a run, to its predictions."""
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from conftest import load_script
from toy_roots import GENES, PITCH_PX, square_array, toy_counts, toy_location
from visium_folders import run as convert, two_sections

from common import io, run_folder
from common.config import Config, SampleConfig, save_config
from common.gene_ids import agreed_ids, ids_by_name, read_ids
from common.layout import Layout, RunLayout
from evaluation.outputs import keep_genes

IDS = {gene: f"ENSG{number:011d}" for number, gene in enumerate(GENES)}


def root_of(folder: Path, ids: list[dict[str, str] | None], **changes) -> Layout:
    """A root of a section for each entry, its genes with these ids (None: no column)."""
    layout, location = Layout(folder), toy_location(square_array())
    for layer, known in enumerate(ids, 1):
        counts = toy_counts(location["barcode"], GENES, layer)
        if known is not None:
            counts.var["gene_ids"] = [known.get(gene, "") for gene in GENES]
        io.write_table(layout.location("S", layer), location)
        io.write_h5ad(layout.counts("S", layer), counts)
    samples = {"S": SampleConfig(layers=list(range(1, len(ids) + 1)))}
    config = Config(dataset="toy", pitch_px=PITCH_PX, n_genes=10, samples=samples, exclude_prefixes=[])
    save_config(config.model_copy(update=changes), layout.config)
    return layout


def chosen(layout: Layout) -> pd.DataFrame:
    assert load_script("5_1_find_high_expression").main(["--root_path", str(layout.root)]) == 0
    return io.read_table(layout.genes, ("gene",), text=("gene", "gene_id"))


def prediction(genes: list[str]) -> anndata.AnnData:
    return anndata.AnnData(np.zeros((3, len(genes)), np.float32), obs=pd.DataFrame(index=list("abc")),
                           var=pd.DataFrame(index=genes))


def test_ids_go_from_the_counts_to_the_predictions(tmp_path):
    layout = root_of(tmp_path / "root", [IDS, IDS])
    table = chosen(layout)
    assert table["gene_id"].tolist() == [IDS[gene] for gene in table["gene"]]
    run = RunLayout(tmp_path / "run")
    genes = keep_genes(layout, run)
    assert read_ids(run.genes) == {gene: IDS[gene] for gene in genes}
    for path in (run.imputed("S", 2), run.imputed_sample("S")):
        run_folder.write_prediction(run, "S", path, prediction(genes))
        assert io.read_h5ad(path).var["gene_ids"].tolist() == [IDS[gene] for gene in genes]


def test_the_choice_does_not_depend_on_ids(tmp_path):
    with_ids, without = chosen(root_of(tmp_path / "a", [IDS, IDS])), chosen(root_of(tmp_path / "b", [None, None]))
    assert "gene_id" not in without
    pd.testing.assert_frame_equal(with_ids.drop(columns="gene_id"), without)


def test_different_ids_of_one_name_are_said_and_left_empty(tmp_path, capsys):
    layout = root_of(tmp_path / "root", [IDS, IDS | {"ACTB": "ENSG99999999999"}, None])
    table = chosen(layout).set_index("gene")
    assert table["gene_id"].isna().sum() == 1 and pd.isna(table["gene_id"]["ACTB"])
    line = capsys.readouterr().out
    for fact in ("mixed gene ids", "1 genes", "ACTB", f"{IDS['ACTB']} in S/1", "ENSG99999999999 in S/2"):
        assert fact in line


def test_a_section_without_ids_or_with_another_version_is_no_difference():
    sections = {"S/1": {"A": "ENSG00000000001.4", "B": "ENSG00000000002.1"}, "S/2": {},
                "S/3": {"A": "ENSG00000000001.12", "B": "ENSG00000000002.1"}}
    assert agreed_ids(sections, ["A", "B", "C"]) == ({"A": "ENSG00000000001", "B": "ENSG00000000002.1"}, {})


@pytest.mark.parametrize("counted", [True, False])
def test_ids_of_a_gene_list_of_another_run(tmp_path, counted):
    """Without counts the ids of the list are kept; with counts theirs are."""
    listed = tmp_path / "other_genes.csv"
    io.write_table(listed, pd.DataFrame({"gene": GENES, "gene_id": [f"00{number}" for number in range(len(GENES))]}))
    layout = root_of(tmp_path / "root", [IDS], genes=str(listed))
    if not counted:
        layout.counts("S", 1).unlink()
    table = chosen(layout).set_index("gene")
    assert table["gene_id"]["RPL3"] == (IDS["RPL3"] if counted else "002")  # text: the zeros stay


def test_ids_of_names_that_occur_twice(tmp_path):
    """'Actb' occurs twice in the matrix: the second gets a suffix, and keeps its own id."""
    assert convert(two_sections(tmp_path / "block7"), tmp_path / "root") == 0
    for layer in (1, 2):
        var = io.read_h5ad(Layout(tmp_path / "root").counts("block7", layer)).var
        assert ids_by_name(var) == {"Actb": "ENS0", "Gapdh": "ENS1", "Actb-1": "ENS2"}
