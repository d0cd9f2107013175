"""Write the records of all sections of a sample to one file.

INPUT   spot_regist/<sample>.csv, npy_information/<sample>/<layer>.npy
OUTPUT  3D_npy_information/<sample>.npy     structured array (n,), rows in spot_regist order: the fields of
                                            npy_information unchanged (region_index, global_index: rows within the
                                            section), and layer 'i4', registered ('f8', 2) px of the middle section;
                                            no pickle, opens with mmap
Source: Zhu et al., CVPR 2025.

    python data_preprocessing_3d/5_build_3d_final_format.py --root_path ROOT
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import cli, io, jobs
from data_preprocessing_3d import neighbours
from data_preprocessing_3d.records import stack_records

STEP = "5_build_3d_final_format"


def sample_job(context: jobs.Context, sample: str) -> jobs.Job:
    layout = context.layout
    stack = neighbours.read_stack(layout, sample)
    target = layout.npy_3d(sample)
    inputs = [layout.spot_regist(sample)] + [layout.npy(sample, layer) for layer in neighbours.layers_of(stack)]

    def work() -> str:
        registered = stack[["registered_x", "registered_y"]].to_numpy()  # (n, 2)
        records = stack_records(dict(neighbours.read_records(context, sample, stack)), registered)
        io.write_npy(target, records)
        layers = ", ".join(map(str, neighbours.layers_of(stack)))
        return f"{len(records)} spots of sections {layers}, {int(records['has_label'].sum())} with a label"

    return jobs.Job(sample, None, inputs, [target], work)


def build_parser():
    return cli.make_parser(__doc__, layer=False)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_samples(STEP, __file__, args, sample_job)


if __name__ == "__main__":
    sys.exit(main())
