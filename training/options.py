"""The training options of main.py and main_3d.py."""
import argparse

from common import options
from common.workers import n_cores


def add_training_options(parser: argparse.ArgumentParser, *, max_iterations: int, batch_size_help: str,
                         max_iterations_help: str, members_help: str) -> None:
    """Add the options that both scripts have. max_iterations: the default number of steps."""
    add = parser.add_argument
    add("--base_lr", type=options.positive_float, default=0.003, help="learning rate at the start")
    add("--lr_decay", type=options.not_negative_float, default=0.9,
        help="lr = base_lr (1 - it / max_iterations)^lr_decay")
    add("--batch_size", type=options.positive_int, default=128, help=batch_size_help)
    add("--max_iterations", type=options.positive_int, default=max_iterations, help=max_iterations_help)
    add("--members", type=options.positive_int, default=4, help=members_help)
    add("--optimizer", choices=["adamw", "sgd"], default="adamw", help="sgd (momentum 0.9) is the paper's")
    add("--rank", type=options.count, default=0,
        help="rank of the expression basis (default: 8 up to 1000 labelled spots, 12 above)")
    add("--width", type=options.positive_int, default=32, help="width of the network")
    add("--reference_width", type=options.positive_int, default=128,
        help="width of --method reference; released: 1024, which needs a GPU")
    add("--seed", type=options.seed, default=0, help="seed of every random draw")
    add("--num_workers", type=options.positive_int, default=n_cores(),
        help="folds trained side by side on the CPU, one thread each (default: the cores)")
    add("--gpu", default=None, help="GPU number, or 'cpu' (default: 0 if there is one, else cpu)")
