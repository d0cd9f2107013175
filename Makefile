# make demo    everything on generated data: raw pictures to the imputed expression of every layer, with the table (about 7 minutes)
# make test    the tests
# make status ROOT=folder    which layer stands at which step, and why
# Both set up .venv beside the sources first: all that is needed is Python 3.11 or newer.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
PY := $(VENV)/bin/python
ROOT ?= demo_data
WORKERS ?= 2

STEPS_2D := 0_2_tissue_mask 1_cropped_multi_level_patch 2_find_512_pair 3_find_1024_pair 4_feature_extraction \
	5_1_find_high_expression 5_2_get_label_of_other_resolution 5_3_normalization 6_pt_construction 7_make_dataset
STEPS_REGISTRATION := Step0_original_contour_generation Step1_affine_registration_2d_PAS_2048_xfeat Step2_registration_ANTs \
	Step3_registertoMiddle_ANTs Step3.5_registertoMiddle_ANTs_points_contour_fast
STEPS_3D := 1_get_iou 2_get_similarity 3_build_3d_information 4_build_3d_graph 5_build_3d_final_format
STEPS := $(STEPS_2D:%=data_preprocessing/%.py) $(STEPS_REGISTRATION:%=registration/%.py) $(STEPS_3D:%=data_preprocessing_3d/%.py)

.PHONY: demo test status install clean
.DELETE_ON_ERROR:

install: $(VENV)/installed

$(VENV)/installed: requirements.txt constraints.txt
	@test -n "$(PYTHON)" || { echo "error: python: found none from 3.11 on; expected Python 3.11 or newer; fix: install it or run make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet uv || true
	if [ -x $(VENV)/bin/uv ]; then $(VENV)/bin/uv pip install --quiet --python $(PY) -r requirements.txt -c constraints.txt; \
	else $(VENV)/bin/pip install --quiet -r requirements.txt -c constraints.txt; fi
	touch $@

demo: install
	$(PY) data_preprocessing/0_make_demo.py --root_path $(ROOT) --num_workers $(WORKERS)
	set -e; for step in $(STEPS); do case $$step in \
		*/0_2_*|*/1_cropped*|*/4_feature*|registration/*) $(PY) $$step --root_path $(ROOT) --num_workers $(WORKERS);; \
		*) $(PY) $$step --root_path $(ROOT);; esac; done
	$(PY) main_3d.py --root_path $(ROOT) --base_lr 0.001 --batch_size 128 --num_workers $(WORKERS)
	$(PY) predict_3d.py --root_path $(ROOT)

test: install
	$(PY) -m pytest -q tests

status: install
	$(PY) -m common.cli status --root_path $(ROOT)

clean:
	rm -rf $(VENV) demo_data runs .snakemake
