"""Raw data of cutaneous squamous cell carcinoma (legacy ST; Ji et al., Cell 2020; GEO GSE144240).

    [GSM…_]P2_ST_rep1_stdata.tsv[.gz]                   rows `XxY` (array position) of the whole array, columns genes
    [GSM…_]spot_data-selection-P2_ST_rep1.tsv[.gz]      x, y, new_x, new_y, pixel_x, pixel_y of the spots on tissue
    [GSM…_]P2_ST_rep1.jpg[.gz]                          H&E; a packed one is unpacked
A sample is a patient, its layers are the numbers of the replicates, or as in `samples.<patient>.raw`. Melanoma of
Thrane et al. (Cancer Res 2018), `ST_mel1_rep1_counts.tsv`, is read in the same way. The columns: legacy.py.
"""
from functools import partial

from data_preprocessing.readers import legacy
from data_preprocessing.readers.legacy_forms import CSCC

FORMS = (CSCC.example,)
list_layers = partial(legacy.list_layers, CSCC)
raw_files = partial(legacy.raw_files, CSCC)
read_positions = partial(legacy.read_positions, CSCC)
read_layer = partial(legacy.read_layer, CSCC)
why_not = partial(legacy.why_not, CSCC)
platform_sources = legacy.platform_sources
