# make install    what the software needs, in .venv; make install TORCH=cpu: PyTorch without CUDA
# make demo    everything on generated data: raw pictures to the imputed expression of every layer, with the table and
#              report.html (about 9 minutes on 2 cores)
# make test    the tests (WORKERS=2 side by side)
# make lint    ruff and mypy
# make status ROOT=folder    which layer stands at which step, and why
# All set up .venv beside the sources first: all that is needed is Python 3.11 or newer.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
PY := $(VENV)/bin/python
ROOT ?= demo_data
WORKERS ?= 2
# PyPI's torch for Linux brings several GB of CUDA libraries. TORCH=cpu takes torch and torchvision from PyTorch's CPU
# index first; for a new .venv only, since what is installed and new enough stays.
TORCH :=
PYTORCH_INDEX := https://download.pytorch.org/whl/$(TORCH)
install_with = if [ -x $(VENV)/bin/uv ]; then $(VENV)/bin/uv pip install --quiet --python $(PY) $(1); \
	else $(VENV)/bin/pip install --quiet $(1); fi

.PHONY: demo test lint status install dev clean
.DELETE_ON_ERROR:

install: $(VENV)/installed

dev: $(VENV)/installed-dev

$(VENV)/installed: requirements.txt constraints.txt
	@test -n "$(PYTHON)" || { echo "error: python: found none from 3.11 on; expected Python 3.11 or newer;" \
		"fix: install it or run make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet uv || true
ifneq ($(TORCH),)
	grep -E '^torch(vision)?(>|$$)' requirements.txt > $(VENV)/torch.txt
	$(call install_with,-r $(VENV)/torch.txt --index-url $(PYTORCH_INDEX))
endif
	$(call install_with,-r requirements.txt -c constraints.txt)
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(call install_with,-r requirements-dev.txt -c constraints.txt)
	touch $@

demo: install
	$(PY) data_preprocessing/0_make_demo.py --root_path $(ROOT) --num_workers $(WORKERS)
	set -e; for step in $$($(PY) -m common.cli steps); do case $$step in \
		*/0_2_*|*/1_cropped*|*/4_feature*|registration/*) $(PY) $$step --root_path $(ROOT) --num_workers $(WORKERS);; \
		*) $(PY) $$step --root_path $(ROOT);; esac; done
	$(PY) main_3d.py --root_path $(ROOT) --base_lr 0.001 --batch_size 128 --num_workers $(WORKERS)
	$(PY) predict_3d.py --root_path $(ROOT)
	@echo "the report, to open in a browser:"; $(PY) report.py --root_path $(ROOT)

test: dev
	$(PY) -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests

lint: dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

status: install
	$(PY) -m common.cli status --root_path $(ROOT)

clean:
	rm -rf $(VENV) demo_data .snakemake
