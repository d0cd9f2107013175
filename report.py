"""Write one HTML page of a run that opens without network: which sections were known, scores, and maps of genes.

INPUT   <save_path>/metrics.json, splits.json, runtime.json, config.yaml, genes.csv, tensorboard/
                                                     of main_3d.py or main.py
        <save_path>/imputed/<sample>/<layer>.h5ad    of predict_3d.py or main.py
        <root>/tissue/, registration/                H&E overviews, overlays, quality.json (the gate's verdict on pairs)
OUTPUT  <save_path>/report.html                      self-contained; the same bytes for the same inputs

Every gene has one colour scale in all sections. Where something is missing (metrics, registration, the prediction of a
section), a note on the page gives the reason. The path of the page is printed.

    python report.py --root_path her2c --genes ERBB2,FASN
"""
import argparse
import re
import sys
from collections.abc import Callable
from html import escape
from importlib import resources

from common import cli, jobs, run_folder
from common.errors import DataError, LayerError
from common.exit_codes import guarded
from common.io import atomic_path

MAPS_HELP = """<p>Each gene has one colour scale for all sections. Measurements are noisy and predictions are smoother:
compare patterns, not single spots. Sections without measurement show the prediction alone.
<label class="slider">Opacity of spots: <input type="range" min="0" max="1" step="0.05" value="0.9"
oninput="document.documentElement.style.setProperty('--spots', this.value)"></label></p>"""
SIDE_PX = ((6, 860), (12, 680), (10**9, 500))  # (sections up to, longer side of a picture in px)


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, sample=True, layer=False, overwrite=False, done=False)
    parser.add_argument("--save_path", default=None,
                        help="run folder of main_3d.py or main.py (default: the last one under <root>/runs)")
    parser.add_argument("--genes", default=None, metavar="A,B",
                        help="genes to map (default: the best predicted, the median, and markers)")
    return parser


def page(run, asked: str | None) -> str:
    """The whole page. Raises DataError for a gene that the run does not have."""
    from report_parts import maps, numbers, stack
    from report_parts.gather import choose_genes
    from report_parts.shown import note, prepare, styles
    genes = maps.gene_views(run, choose_genes(run, asked))
    shown = prepare(run, next(side for most, side in SIDE_PX if len(run.layers) <= most))
    parts = [("summary", "In short", part(numbers.headline, run))]
    for number, (sample, layers) in enumerate(shown.items()):
        of_sample = f" of sample {sample}" if len(shown) > 1 else ""
        of_genes = "".join(part(maps.gene_maps, run, layers, gene) for gene in genes)
        parts += [(f"stack-{number}", f"Sections{of_sample}", part(stack.stack, run, sample, layers)),
                  (f"genes-{number}", f"Genes{of_sample}", MAPS_HELP + of_genes if genes else note(no_maps(run))),
                  (f"confidence-{number}", f"Confidence{of_sample}", part(maps.confidence, run, layers)),
                  (f"space-{number}", f"3D view{of_sample}", part(maps.rotatable, run, layers, genes))]
    parts += [("numbers", "How good is it?", part(numbers.metrics_table, run)),
              ("training", "Training", part(numbers.training, run)),
              ("origin", "How this was made", part(numbers.reproducibility, run))]
    sections = [f'<section id="{name}"><h2>{escape(title)}</h2>{body}</section>' for name, title, body in parts]
    return filled(template("page.html"), {
        "title": escape(f"Spatial expression of {run.config.dataset}, imputed section by section"),
        "styles": styles(shown),
        "links": "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title, _ in parts),
        "body": "\n".join(sections),
        "script": template("view3d.js")})


def part(make: Callable, *arguments) -> str:
    """A part of the page, or a note if a file of another version lacks what the part needs.

    A JSON object of read_json raises LayerError for a missing key.
    """
    from report_parts.shown import note
    try:
        return make(*arguments)
    except (DataError, LayerError) as error:
        return note(f"Not shown: {error}; it may come from another version of the software.")


def no_maps(run) -> str:
    """Why there is no map."""
    problems = [run.missing["genes"]] if "genes" in run.missing else [one.problem for one in run.layers if one.problem]
    return f"No maps: {problems[0] if problems else 'no gene was chosen'}"


def template(name: str) -> str:
    return resources.files("report_parts").joinpath(name).read_text(encoding="utf-8")


def filled(text: str, values: dict[str, str]) -> str:
    """Replace every {{name}} by its value, in one pass: braces in a value stay as they are."""
    return re.sub(r"{{(\w+)}}", lambda match: values[match[1]], text)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)

    def work() -> int:
        context = jobs.open_context(args)
        from report_parts.gather import read_run
        run_layout = run_folder.find(context.layout, args.save_path)
        text = page(read_run(context, run_layout), args.genes)
        with atomic_path(run_layout.report) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(run_layout.report)
        return 0
    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
