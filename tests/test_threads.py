"""The same bytes with one and with two threads, each in its own process: libraries read the environment at import."""
import pytest
from pipeline import with_threads

FIT_AND_PREDICT = """
import hashlib, sys
from common.device import start_torch
started = start_torch(0, "cpu") if sys.argv[1] == "main" else None
import numpy as np
from models import gp
from models.imputation import Imputer
from models.views import spot_views

generator = np.random.default_rng(0)
n, n_known = 1400, 700
position = np.stack(np.meshgrid(np.arange(28.0), np.arange(50.0)), -1).reshape(-1, 2) + generator.normal(0, .05, (n, 2))
image = generator.normal(0, 1, (n, 300))
label = np.sin(position[:, :1] / 3) + image[:, :3] @ generator.normal(0, .5, (3, 60)) + generator.normal(0, .5, (n, 60))
views = spot_views(position, np.repeat([1, 2], n // 2), {"image": image})
known = {name: view[:n_known] for name, view in views.items()}
process = gp.fit(label[:n_known].astype(np.float32), known, kernel=gp.Kernel(stain=0., near_stain=0.))
answer = gp.predict(process, views)
imputer = Imputer(process.kernel, known, np.ones(n_known), generator.normal(0, 1, (n_known, 8)), np.ones(8))
imputed = {"imputed": imputer.targets(views), "hidden": imputer.hidden(np.arange(200))}
parts = {**views, **answer, **imputed, "coefficient": process.coefficient}
for name, values in parts.items():
    print(name, hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest())
"""
THREADS = """
import numpy, scipy.linalg, torch
from threadpoolctl import threadpool_info
def threads():
    return {pool["num_threads"] for pool in threadpool_info()} | {torch.get_num_threads()}
"""


@pytest.mark.parametrize("caller", ["main", "library"])
def test_fit_and_predict_give_the_same_bytes(caller):
    """As a main script calls them, and from a process without a limit."""
    one, two = (with_threads(n_threads, FIT_AND_PREDICT, caller) for n_threads in (1, 2))
    assert len(one.splitlines()) == 9 and one == two


def test_a_limit_ends_with_the_work():
    """The user of a library keeps the threads of the process."""
    said = with_threads(2, THREADS + """
from common.threads import one_thread
inside = one_thread()(threads)
print(threads(), inside(), threads())
""")
    assert said.split() == ["{2}", "{1}", "{2}"]


def test_a_numbered_step_works_with_one_thread(tmp_path):
    """Also one that multiplies matrices: the most similar spots are chosen by a product."""
    (tmp_path / "dataset.yaml").write_text("dataset: toy\npitch_px: 10\n")
    (tmp_path / "imgs/A").mkdir(parents=True)
    (tmp_path / "imgs/A/1.png").touch()
    said = with_threads(2, THREADS + """
import sys
from common import cli, jobs
args = cli.make_parser("", sample=False, layer=False).parse_args(["--root_path", sys.argv[1]])
def work():
    return str(threads())
jobs.run_dataset("2_get_similarity", jobs.__file__, args, lambda context: jobs.Job(None, None, [], [], work))
print(threads())
""", str(tmp_path))
    assert "dataset: {1}" in said and said.split()[-1] == "{2}"
