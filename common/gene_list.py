"""The files of gene names: the chosen genes, their background, and a user's own list."""
from pathlib import Path

import pandas as pd

from common.errors import DataError, of_dataset
from common.io import read_table
from common.layout import Layout


def read_genes(layout: Layout) -> list[str]:
    """The chosen genes, in the order of every label. Raises DataError."""
    with of_dataset():
        return read_table(layout.genes, ("gene",), "5_1_find_high_expression.py", text=("gene",))["gene"].tolist()


def read_background(path: Path, made_by: str = "5_1_find_high_expression.py") -> pd.DataFrame:
    """Table gene, rank, mean: the genes whose sum a label is relative to. path: `background` of a root or run."""
    return read_table(path, ("gene", "rank", "mean"), made_by, text=("gene",))


def read_gene_list(path: Path) -> list[str]:
    """Gene symbols of a text file, one a line (blank lines are skipped), or of the genes.csv of a run.

    Raises DataError if there is no such file, no gene in it or one twice.
    """
    if not path.is_file():
        raise DataError(path, "no file", "genes: top_mean, hvg, or a file with one gene symbol a line",
                        "correct 'genes' in the config")
    if path.suffix == ".csv":
        with of_dataset():
            genes = read_table(path, ("gene",), "main.py or main_3d.py", text=("gene",))["gene"].dropna().tolist()
    else:
        try:
            genes = path.read_text().split()
        except UnicodeDecodeError:
            fix = "correct 'genes' in the config"
            raise DataError(path, "a file that is no text", "one gene symbol a line", fix) from None
    if not genes:
        raise DataError(path, "an empty file", "one gene symbol a line", "list the genes")
    if len(set(genes)) < len(genes):
        twice = pd.Series(genes)[pd.Series(genes).duplicated()].iloc[0]
        raise DataError(path, f"a gene twice, {twice}", "every gene once", "remove the doubles")
    return genes
