"""Words and numbers: what was known, how good the prediction is beside floors and ceiling, how training went, how the run was made."""
import shlex
from html import escape

import yaml

from evaluation.metrics import NAMES
from report_parts import charts
from report_parts.gather import NOTHING_TRAINED, Run
from report_parts.shown import note

FLOORS = {"mean": "every spot gets the mean of the known (2D: training) sections", "nearest": "the nearest known spot after registration",
          "overlap": "overlap-weighted mean of the known spots that it overlaps",
          "similarity": "mean of the 12 known spots that look most alike", "kernel": "smooth average of the known spots around it"}
MODELS = {"ridge": "ridge regression on the picture's features", "stnet": "ST-Net's linear layer on the picture's features",
          "gp": "Gaussian process on position and image", "reference": "the released network, its arithmetic and recipe", "msagnet": "MSAGNet, the graph network"}
SAYS = FLOORS | MODELS
METRICS = {"mse": ("MSE", "mean squared error, natural-log scale; lower is better"),
           "mae": ("MAE", "mean absolute error, natural-log scale; lower is better"),
           "pcc_spot": ("PCC_spot", "correlation over genes within a spot; high for any method, as genes differ far more than spots do"),
           "pcc_gene": ("PCC_gene", "the number to look at: correlation over the spots of a section, for the average gene. "
                                    "Is the pattern right? 0 = no pattern"),
           "scc_gene": ("SCC_gene", "the same by rank (Spearman)")}
ROLES = {"known": "measured; the method saw it", "training": "measured; the network learned from it, so it is not predicted",
         "target": "measured, but hidden from the method: the test", "image-only": "only photographed: imputed"}
UNTESTED = {"target": "measured, but not shown to the network here; whether it had learned from this section, this run cannot tell"}


def headline(run: Run) -> str:
    rows = []
    for sample, layers in run.samples.items():
        refused = lambda one: ' <span class="bad">registration refused</span>' if run.refused(one) else ""
        chips = "".join(f'<li class="{one.role}"><b>{one.layer}</b> {one.role}{refused(one)}</li>' for one in layers)
        name = f'Sample {escape(sample)}: {_counted(len(layers), "section")}'
        rows.append(f'<div class="sample"><h3>{name}</h3><ol class="chips">{chips}</ol></div>')
    roles = [role for role in ROLES if any(one.role == role for one in run.layers)]
    says = ROLES | (UNTESTED if run.untested else {})
    meaning = "".join(f'<li><i class="dot {role}"></i><b>{role}</b>: {says[role]}</li>' for role in roles)
    return f'{"".join(rows)}<ul class="plain">{meaning}</ul>{verdict(run)}'


def verdict(run: Run) -> str:
    """How good it is, in words and four bars."""
    if run.method is None:
        return note(f"Which method this was is not known: {run.missing['splits']}")
    words = f'<p>Method: <b>{escape(SAYS.get(run.method, run.method))}</b>, {_counted(len(run.genes), "gene")}.</p>'
    methods = (run.metrics or {}).get("methods", {})
    if run.method not in methods:
        return words + note(run.missing.get("metrics", "No target section has counts: nothing could be scored."))
    value = {method: one["pooled"]["pcc_gene"] for method, one in methods.items()}
    ceiling = run.metrics["ceiling"]["pooled"].get("pcc_gene")
    floor = max((method for method in methods if method in FLOORS), key=value.get)
    bars = [(f"best simple rule: {floor}", value[floor], "floor")]
    bars += [(method, value[method], "model") for method in MODELS if method in methods and method != run.method]
    bars.append((f"this run: {run.method}", value[run.method], "own"))
    perfect = ""
    if ceiling is not None:
        bars.append(("ceiling: all that noisy counts allow", ceiling, "top"))
        perfect = f" A perfect prediction would reach {ceiling:.2f}, because the counts themselves are noisy."
    track = lambda score, kind: f'<span class="track"><i class="{kind}" style="width:{100 * max(score, 0):.1f}%"></i></span>'
    drawn = "".join(f"<div><span>{escape(label)}</span>{track(score, kind)}<b>{score:.3f}</b></div>" for label, score, kind in bars)
    better = [method for method in methods if value[method] > value[run.method]]
    ahead = "ahead of every simple rule" if value[run.method] > value[floor] else "not ahead of the best simple rule"
    behind = "; behind " + ", ".join(f"{method} ({SAYS.get(method, method)}; {value[method]:.2f})" for method in better) if better else ""
    return (f'{words}<p class="big">For the average gene, the predicted pattern of a test section agrees with the measured one at '
            f'<b>r = {value[run.method]:.2f}</b> (PCC_gene).{perfect} The best simple rule ({floor}: {FLOORS[floor]}) reaches {value[floor]:.2f}. This run is '
            f'{ahead}{escape(behind)}.</p><div class="scores">{drawn}</div>')


def metrics_table(run: Run) -> str:
    """Every method on the same spots, best in bold, this run's row marked; PCC_gene of each section; and what the names mean."""
    methods = (run.metrics or {}).get("methods", {})
    if not methods:
        return note(run.missing.get("metrics", "No target section has counts: nothing was scored."))
    ceiling, order = run.metrics["ceiling"], sorted(methods, key=lambda name: list(SAYS).index(name) if name in SAYS else len(SAYS))
    best = {metric: (min if metric in ("mse", "mae") else max)(one["pooled"][metric] for one in methods.values()) for metric in NAMES}
    own = lambda name, text: text if name == run.method else ""
    pooled = lambda name: [methods[name]["pooled"][metric] for metric in NAMES]
    rows = [_row(name + own(name, " ◂ this run"), pooled(name), list(best.values()), own(name, "own")) for name in order]
    rows.append(_row("ceiling", [ceiling["pooled"].get(metric) for metric in NAMES], [], "top"))
    sections = []
    for layer in sorted(methods[order[0]]["layers"], key=lambda name: (name.rpartition("/")[0], int(name.rpartition("/")[2]))):
        values = [methods[name]["layers"][layer]["pcc_gene"] for name in order]
        sections.append(_row(layer, [*values, ceiling["layers"].get(layer, {}).get("pcc_gene")], [max(values)] * len(values)))
    metrics = "".join(f"<li><b>{name}</b>: {meaning}</li>" for name, meaning in METRICS.values())
    names = "".join(f"<li><b>{name}</b>: {SAYS[name]}</li>" for name in order if name in SAYS)
    return (f'{_table(["method", *(METRICS[metric][0] for metric in NAMES)], rows)}'
            f'<p>Best of a column in bold. No method saw the measurements of the sections that are scored.</p><ul class="plain">{metrics}'
            f'<li><b>ceiling</b>: what a perfect prediction would reach against counts this noisy</li></ul>'
            f'<h4>PCC_gene, section by section</h4>{_table(["section", *order, "ceiling"], sections)}<ul class="plain">{names}</ul>')


def _table(head: list[str], rows: list[str]) -> str:
    columns = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="wide"><table><thead><tr>{columns}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _row(name: str, values: list[float | None], best: list[float], kind: str = "") -> str:
    """A row of numbers; in bold where a value is the best of its column."""
    marks = ["best" if k < len(best) and value == best[k] else "" for k, value in enumerate(values)]
    cells = "".join(f'<td class="{mark}">{"–" if value is None else f"{value:.3f}"}</td>' for value, mark in zip(values, marks))
    return f'<tr class="{kind}"><th>{escape(name)}</th>{cells}</tr>'


def training(run: Run) -> str:
    curves = charts.read_curves(run.run_layout, [fold["index"] for fold in run.folds])
    if not curves:
        if run.untested:
            return note(NOTHING_TRAINED)
        no_log = f"no log under {run.run_layout.tensorboard(0).parent}"
        return note(f"No training curves: {no_log if run.method in (None, 'msagnet', 'reference') else 'this method needs no training'}.")
    return f'<div class="charts">{"".join(charts.line_chart(series, charts.CURVES[tag]) for tag, series in curves.items())}</div>'


def reproducibility(run: Run) -> str:
    started, facts = note(f"Not known how this run was started: {run.missing.get('runtime')}"), {}
    if run.runtime is not None:
        started = f'<p>Command</p><pre>python {escape(shlex.join(run.runtime["command"]))}</pre>'
        facts = {name: value for name, value in run.runtime.items() if name != "command"}
    facts |= {} if run.metrics is None else {"recipe": run.metrics["recipe"]}
    facts |= {f"fold {fold['index']}": {name: value for name, value in fold.items() if name != "index"} for fold in run.folds}
    config = note(run.missing.get("config", ""))
    if run.run_config is not None:
        config = f"<pre>{escape(yaml.safe_dump(run.run_config.model_dump(), sort_keys=False, allow_unicode=True))}</pre>"
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
