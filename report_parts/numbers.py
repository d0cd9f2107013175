"""Words and numbers: known sections, scores beside baselines and the ceiling, training curves, reproducibility."""
import shlex
from html import escape

import yaml

from evaluation.metrics import NAMES
from report_parts import charts
from report_parts.gather import NOTHING_TRAINED, Run
from report_parts.shown import note

SIMPLE_BASELINES = {
    "mean": "every spot gets the mean of the known (2D: training) sections",
    "nearest": "the nearest known spot after registration",
    "overlap": "overlap-weighted mean of the known spots that it overlaps",
    "similarity": "mean of the 12 known spots with the most similar image",
    "kernel": "smooth average of the known spots around it",
}
MODELS = {
    "ridge": "ridge regression on image features",
    "stnet": "ST-Net's linear layer on image features",
    "gp": "Gaussian process on position and image",
    "reference": "the released network, its arithmetic and recipe",
    "msagnet": "MSAGNet, the graph network",
}
METHODS = SIMPLE_BASELINES | MODELS
METRICS = {
    "mse": ("MSE", "mean squared error, natural-log scale; lower is better"),
    "mae": ("MAE", "mean absolute error, natural-log scale; lower is better"),
    "pcc_spot": ("PCC_spot", "correlation over genes within a spot; high for any method, because genes differ far more "
                             "than spots do"),
    "pcc_gene": ("PCC_gene", "the main number: correlation over the spots of a section, mean over genes. It measures "
                             "whether the pattern is right; 0 = no pattern"),
    "scc_gene": ("SCC_gene", "the same by rank (Spearman)"),
}
ROLES = {
    "known": "measured and given to the model",
    "training": "measured; the network learned from it, so it is not predicted",
    "target": "measured, hidden from the model and kept for scoring",
    "image-only": "only photographed: imputed",
}
UNTESTED = {"target": "measured, not given to the network here; it is unknown whether the network was trained on it"}
NO_COUNTS = "No target section has counts: nothing was scored."


def headline(run: Run) -> str:
    rows = []
    for sample, layers in run.samples.items():
        chips = ""
        for one in layers:
            refused = ' <span class="bad">registration refused</span>' if run.refused(one) else ""
            chips += f'<li class="{one.role}"><b>{one.layer}</b> {one.role}{refused}</li>'
        name = f'Sample {escape(sample)}: {_counted(len(layers), "section")}'
        rows.append(f'<div class="sample"><h3>{name}</h3><ol class="chips">{chips}</ol></div>')
    roles = [role for role in ROLES if any(one.role == role for one in run.layers)]
    meanings = ROLES | (UNTESTED if run.untested else {})
    legend = "".join(f'<li><i class="dot {role}"></i><b>{role}</b>: {meanings[role]}</li>' for role in roles)
    return f'{"".join(rows)}<ul class="plain">{legend}</ul>{verdict(run)}'


def verdict(run: Run) -> str:
    """How good the prediction is, in words and bars."""
    if run.method is None:
        return note(f"The method of this run is unknown: {run.missing['splits']}")
    words = f'<p>Method: <b>{escape(METHODS.get(run.method, run.method))}</b>, {_counted(len(run.genes), "gene")}.</p>'
    methods = (run.metrics or {}).get("methods", {})
    if run.method not in methods:
        return words + note(run.missing.get("metrics", NO_COUNTS))
    value = {method: one["pooled"]["pcc_gene"] for method, one in methods.items()}
    ceiling = run.metrics["ceiling"]["pooled"].get("pcc_gene")
    best_baseline = max((method for method in methods if method in SIMPLE_BASELINES), key=value.get)
    perfect = ""
    if ceiling is not None:
        perfect = f" A perfect prediction would reach {ceiling:.2f}, because the counts themselves are noisy."
    ahead = "ahead of every simple baseline"
    if not value[run.method] > value[best_baseline]:
        ahead = "not ahead of the best simple baseline"
    better = [f"{method} ({METHODS.get(method, method)}; {value[method]:.2f})" for method in methods
              if value[method] > value[run.method]]
    behind = f"; behind {', '.join(better)}" if better else ""
    return (f'{words}<p class="big">For the average gene, the predicted pattern of a target section agrees with the '
            f'measured one at <b>r = {value[run.method]:.2f}</b> (PCC_gene).{perfect} The best simple baseline '
            f'({best_baseline}: {SIMPLE_BASELINES[best_baseline]}) reaches {value[best_baseline]:.2f}. This run is '
            f'{ahead}{escape(behind)}.</p>{score_bars(run.method, value, best_baseline, ceiling)}')


def score_bars(own: str, value: dict[str, float], best_baseline: str, ceiling: float | None) -> str:
    """A bar of PCC_gene for the best simple baseline, every model, this run's method (`own`) and the ceiling."""
    bars = [(f"best simple baseline: {best_baseline}", value[best_baseline], "rule")]
    bars += [(method, value[method], "model") for method in MODELS if method in value and method != own]
    bars.append((f"this run: {own}", value[own], "own"))
    if ceiling is not None:
        bars.append(("ceiling: the most that noisy counts allow", ceiling, "top"))
    drawn = ""
    for label, score, kind in bars:
        track = f'<span class="track"><i class="{kind}" style="width:{100 * max(score, 0):.1f}%"></i></span>'
        drawn += f"<div><span>{escape(label)}</span>{track}<b>{score:.3f}</b></div>"
    return f'<div class="scores">{drawn}</div>'


def metrics_table(run: Run) -> str:
    """Scores of every method on the same spots, PCC_gene of each section, and a legend.

    The best value is bold, the row of this run is marked.
    """
    methods = (run.metrics or {}).get("methods", {})
    if not methods:
        return note(run.missing.get("metrics", NO_COUNTS))
    order = sorted(methods, key=lambda name: list(METHODS).index(name) if name in METHODS else len(METHODS))
    meanings = "".join(f"<li><b>{name}</b>: {meaning}</li>" for name, meaning in METRICS.values())
    names = "".join(f"<li><b>{name}</b>: {METHODS[name]}</li>" for name in order if name in METHODS)
    return (f'{_pooled_table(run, order)}'
            f'<p>Best of a column in bold. No method saw the measurements of the sections that are scored.</p>'
            f'<ul class="plain">{meanings}'
            f'<li><b>ceiling</b>: what a perfect prediction would reach against counts this noisy</li></ul>'
            f'<h4>PCC_gene, section by section</h4>{_section_table(run, order)}<ul class="plain">{names}</ul>')


def _pooled_table(run: Run, order: list[str]) -> str:
    """All metrics over all target sections, a row a method."""
    pooled = {name: one["pooled"] for name, one in run.metrics["methods"].items()}
    best = []
    for metric in NAMES:
        best_of = min if metric in ("mse", "mae") else max
        best.append(best_of(one[metric] for one in pooled.values()))
    rows = []
    for name in order:
        label, kind = (f"{name} ◂ this run", "own") if name == run.method else (name, "")
        rows.append(_row(label, [pooled[name][metric] for metric in NAMES], best, kind))
    ceiling = run.metrics["ceiling"]["pooled"]
    rows.append(_row("ceiling", [ceiling.get(metric) for metric in NAMES], [], "top"))
    return _table(["method", *(METRICS[metric][0] for metric in NAMES)], rows)


def _section_table(run: Run, order: list[str]) -> str:
    """PCC_gene of every method, a row a target section."""
    methods, ceiling = run.metrics["methods"], run.metrics["ceiling"]["layers"]

    def by_sample_then_layer(name: str) -> tuple[str, int]:
        sample, _, layer = name.rpartition("/")
        return sample, int(layer)

    rows = []
    for section in sorted(methods[order[0]]["layers"], key=by_sample_then_layer):
        values = [methods[name]["layers"][section]["pcc_gene"] for name in order]
        with_ceiling = [*values, ceiling.get(section, {}).get("pcc_gene")]
        rows.append(_row(section, with_ceiling, [max(values)] * len(values)))
    return _table(["section", *order, "ceiling"], rows)


def _table(head: list[str], rows: list[str]) -> str:
    columns = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="wide"><table><thead><tr>{columns}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _row(name: str, values: list[float | None], best: list[float], kind: str = "") -> str:
    """A row of numbers; bold where a value is the best of its column. Values beyond `best` are never bold."""
    cells = ""
    for k, value in enumerate(values):
        mark = "best" if k < len(best) and value == best[k] else ""
        cells += f'<td class="{mark}">{"–" if value is None else f"{value:.3f}"}</td>'
    return f'<tr class="{kind}"><th>{escape(name)}</th>{cells}</tr>'


def training(run: Run) -> str:
    curves = charts.read_curves(run.run_layout, [fold["index"] for fold in run.folds])
    if not curves:
        if run.untested:
            return note(NOTHING_TRAINED)
        if run.method in (None, "msagnet", "reference"):
            return note(f"No training curves: no log under {run.run_layout.tensorboard(0).parent}.")
        return note("No training curves: this method needs no training.")
    drawn = [charts.line_chart(series, charts.CURVES[tag]) for tag, series in curves.items()]
    return f'<div class="charts">{"".join(drawn)}</div>'


def reproducibility(run: Run) -> str:
    started, facts = note(f"The command of this run is unknown: {run.missing.get('runtime')}"), {}
    if run.runtime is not None:
        started = f'<p>Command</p><pre>python {escape(shlex.join(run.runtime["command"]))}</pre>'
        facts = {name: value for name, value in run.runtime.items() if name != "command"}
    facts |= {} if run.metrics is None else {"recipe": run.metrics["recipe"]}
    for fold in run.folds:
        facts[f"fold {fold['index']}"] = {name: value for name, value in fold.items() if name != "index"}
    config = note(run.missing.get("config", ""))
    if run.run_config is not None:
        text = yaml.safe_dump(run.run_config.model_dump(), sort_keys=False, allow_unicode=True)
        config = f"<pre>{escape(text)}</pre>"
    return f"{started}{_facts(facts)}<details><summary>Configuration of the dataset</summary>{config}</details>"


def _facts(values: dict) -> str:
    """A nested mapping as a table, one row a leaf."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in _leaves(values))
    return f'<div class="wide"><table class="facts"><tbody>{rows}</tbody></table></div>'


def _leaves(values: dict, prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            rows += _leaves(value, f"{name}: ")
        else:
            rows.append((name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
