"""status.json: the end of every step for every section, sample and the dataset."""
import json

from common.errors import DataError
from common.io import write_json
from common.layout import STEPS, Layout
from common.locks import locked
from common.names import natural_key


def set_status(layout: Layout, step: str, name: str, text: str) -> None:
    """Note in status.json how a step ended for one section, sample or the dataset.

    {name: {step: text}}: names in natural order, steps in the order of the run.
    """
    with locked(layout.status):
        status = read_status(layout)
        status.setdefault(name, {})[step] = text
        ordered = {}
        for unit in sorted(status, key=natural_key):
            ordered[unit] = {one: status[unit][one] for one in sorted(status[unit], key=in_order)}
        write_json(layout.status, ordered)


def read_status(layout: Layout) -> dict[str, dict[str, str]]:
    """{name: {step: 'ok' | 'left out: …'}}; empty if no step has run."""
    try:
        return json.loads(layout.status.read_text()) if layout.status.is_file() else {}
    except ValueError as error:
        raise DataError(layout.status, f"a file that cannot be read ({error})", "the notes of the steps",
                        "remove it; each step writes its notes again") from None


def first_failure(layout: Layout, name: str, step: str) -> str | None:
    """The earlier step that left this section or sample out for a reason of its own, or None."""
    notes = read_status(layout).get(name, {})
    failed = [other for other, text in notes.items()
              if text.startswith("left out:") and in_order(other) < in_order(step)]
    return min(failed, key=in_order, default=None)


def in_order(step: str) -> int:
    """The position of a step in the run."""
    return STEPS.index(step) if step in STEPS else len(STEPS)


def print_status(layout: Layout) -> int:
    """Print one line a section: the number of steps done, and the failures."""
    status = read_status(layout)
    if not status:
        print(f"{layout.root}: no step has run yet")
    for name, steps in status.items():
        done = sum(text == "ok" for text in steps.values())
        wrong = [f"{step}: {text}" for step, text in steps.items() if text != "ok"]
        print(f"{name:12s} {done:3d} steps ok" + ("" if not wrong else "; " + "; ".join(wrong)))
    return 0
