"""Raw data of HER2+ breast cancer (legacy ST; Andersson et al., Nat Commun 2021).

The public her2st repository, Zenodo 4751624, or a mixture of both:

    ST-cnts/C2.tsv[.gz]                count-matrices/C2.tsv[.gz]
    ST-spotfiles/C2_selection.tsv      spot-selections/C2_selection.tsv[.gz]
    ST-imgs/C/C2/<any name>.jpg        images/HE/C2.jpg
or C2.tsv, C2_selection.tsv and C2.jpg side by side in the raw folder. A name is the sample's letters and the layer's
number. The columns of the tables: legacy.py.
"""
from functools import partial

from data_preprocessing.readers import legacy
from data_preprocessing.readers.legacy_forms import HER2ST

FORMS = (HER2ST.example,)
list_layers = partial(legacy.list_layers, HER2ST)
raw_files = partial(legacy.raw_files, HER2ST)
read_positions = partial(legacy.read_positions, HER2ST)
read_layer = partial(legacy.read_layer, HER2ST)
why_not = partial(legacy.why_not, HER2ST)
platform_sources = legacy.platform_sources
