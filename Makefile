# Every target sets up .venv first if it is missing or older than pyproject.toml or constraints.txt.
# docs/testing.md says what each of the tests' targets is for.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS))
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup demo test pytest lint docs notebooks bench bench-all bench-start gpu figures paper why
.PHONY: test-matrix test-long test-kills test-ray test-quantize test-track test-install test-studio
.PHONY: studio-pictures bench-studio test-comfyui
.PHONY: dist comfyui comfyui-archive comfyui-branch options-page clean
.DEFAULT_GOAL := test

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(PIP_INSTALL) -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/skipguide compare --out-dir demo --overwrite \
	  "a small red star orbiting over a blue background" \
	  "a large yellow moon spinning over a purple background" \
	  "a green cross bouncing on a striped brown background" \
	  "an orange triangle moving left on a grey background"
	$(BIN)/skipguide lab frame demo/star.png --shape star --colour red --motion bounce --seed 4 --overwrite
	$(BIN)/skipguide compare --out-dir demo --overwrite --model lab-svd --image demo/star.png \
	  --layers up:3 --skip attention --spatial-scale 2 --temporal-scale 0.5 --rescale 0.7
	$(BIN)/skipguide compare --out-dir demo --overwrite --model lab-opensora --spatial-scale 1 --temporal-scale 1 \
	  "a large red star orbiting over a blue background"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(MAKE) --no-print-directory docs

# The site, into build/site; a broken link or a request to another host is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: lint pytest

# The same without lint, for other versions of Python and of the libraries.
pytest: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest

bench: $(READY)
	$(BIN)/skipguide bench --family mochi

bench-all: $(READY)
	$(BIN)/skipguide bench --all --prompts 1

# Large models on a large GPU, in at most 9 minutes: docs/gpu.json, and docs/gpu.md from it.
gpu: $(READY)
	$(BIN)/skipguide bench --gpu --out docs/gpu.json
	$(BIN)/python -m skipguide.bench.gpu_page docs/gpu.json > docs/gpu.md

# The outputs of the notebooks in docs/notebooks.
notebooks: $(READY)
	$(BIN)/python tools/run_notebooks.py

# Seconds of the import, of --help and of a first clip, each in new processes.
bench-start: $(READY)
	$(BIN)/python tools/bench_start.py

figures: $(READY)
	$(BIN)/skipguide lab methods docs/methods.png --overwrite

# docs/options.md, from the help of `skipguide generate`.
options-page: $(READY)
	PYTHONPATH=tests $(BIN)/python -m support.options_page > docs/options.md

paper: $(READY)
	$(BIN)/skipguide paper run
	$(BIN)/skipguide paper report

# docs/why.md, its figures and numbers, in under 3 minutes on two cores.
why: $(READY)
	$(BIN)/skipguide paper why

# The cases of the pipelines that do not stand for others (tests/support/matrix.py).
test-matrix: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'matrix and not long'

# The slowest combinations of tests whose others are in `make test`.
test-long: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m long

# The process of a sweep killed 500 times at random moments; a real Ray of two workers, one of them killed.
test-kills: $(READY)
	SKIPGUIDE_KILLS=500 OMP_NUM_THREADS=1 $(BIN)/pytest -n 0 --timeout 3600 \
	  tests/runs/test_runs_faults.py tests/runs/test_runs_killed_anywhere.py
	SKIPGUIDE_KILLS=500 OMP_NUM_THREADS=1 $(BIN)/pytest -n 0 --timeout 3600 -m long \
	  tests/tuning/test_tuning_killed.py

test-ray: $(READY)
	$(BIN)/python $(PIP_INSTALL) -e '.[ray]' 'ray[serve]'
	OMP_NUM_THREADS=1 RAY_raylet_start_wait_time_s=600 $(BIN)/pytest -n 0 --timeout 1500 \
	  tests/runs/test_runs_ray.py tests/runs/test_runs_ray_groups.py
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 0 --timeout 1500 tests/runs/test_serve_ray.py

# Runs in TensorBoard, MLflow's local store and W&B offline, read back with their own readers. What
# these packages warn of is theirs.
test-track: $(READY)
	$(BIN)/python $(PIP_INSTALL) -e '.[mlflow,tensorboard,wandb]'
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 0 --timeout 900 -W default tests/runs/test_tracking.py tests/runs/test_tracking_packages.py

# Quantization by torchao and bitsandbytes, which say things when they are imported, in an environment
# of their own.
test-quantize: $(READY)
	rm -rf .quantize
	$(PYTHON) -m venv .quantize
	.quantize/bin/python $(PIP_INSTALL) -e '.[dev]' torchao bitsandbytes
	OMP_NUM_THREADS=1 .quantize/bin/python -m pytest -n 0 --timeout 900 -m '' tests/models/test_quantize.py

# The built wheel in an empty environment: every pipeline from its prompt on, first without and then
# with torchvision, which Kandinsky's processor needs.
INSTALLED := .install/bin/python -m
FROM_PROMPTS := OMP_NUM_THREADS=1 $(INSTALLED) pytest -m '' tests/generate/test_text_path.py
test-install: $(READY)
	rm -rf .install
	$(BIN)/python -m build --wheel --outdir .install/dist .
	$(PYTHON) -m venv .install
	.install/bin/python $(PIP_INSTALL) .install/dist/*.whl
	.install/bin/python $(PIP_INSTALL) pytest pytest-timeout pytest-xdist
	$(FROM_PROMPTS)
	.install/bin/python $(PIP_INSTALL) torchvision
	if .install/bin/python -c 'import torchvision'; then $(FROM_PROMPTS) -k Kandinsky; \
	else echo "This torchvision does not fit this torch: Kandinsky was not run."; fi

# Wheel and sdist in dist/, as they would be published.
dist: $(READY)
	rm -rf dist
	$(BIN)/python $(PIP_INSTALL) twine
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*.whl dist/*.tar.gz

# The page in a real Chromium (apt install chromium, or SKIPGUIDE_CHROMIUM).
test-studio: $(READY)
	$(BIN)/python $(PIP_INSTALL) playwright
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 0 --timeout 900 -m browser tests/studio

# The pictures of the voting page and of a phone in docs/studio.md.
studio-pictures: $(READY)
	$(BIN)/python $(PIP_INSTALL) playwright
	PYTHONPATH=tests $(BIN)/python tests/support/studio_pictures.py build/shown docs
	PYTHONPATH=tests $(BIN)/python tests/support/study_pictures.py build/study docs
	PYTHONPATH=tests $(BIN)/python tests/support/tune_pictures.py build/tuned docs

# How a run of 1,000 clips opens and scrolls in a real Chromium. CLIPS=... takes another number of
# them, BEFORE=COMMIT measures the studio of that commit beside this one.
CLIPS ?= 1000
bench-studio: $(READY)
	$(BIN)/python $(PIP_INSTALL) playwright
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python tests/support/studio_bench.py \
	  build/clips-$(CLIPS) $(CLIPS) $(BEFORE)

# The pack's own copy of what it uses of the library; a test holds them equal.
comfyui:
	$(PYTHON) comfyui/vendor.py

# The pack as an archive in dist/, and as the branch `comfyui`: what is cloned into custom_nodes.
comfyui-archive: $(READY)
	$(PYTHON) tools/comfyui_archive.py dist

comfyui-branch:
	git branch -f comfyui $$(git commit-tree HEAD:comfyui -m "skipguide for ComfyUI, from $$(git rev-parse --short HEAD)")

# The node pack in a real ComfyUI: make test-comfyui COMFYUI_PATH=... COMFYUI_PYTHON=... (comfyui/README.md).
test-comfyui: $(READY)
	@test -n "$(COMFYUI_PATH)" || { echo "COMFYUI_PATH must be a checkout of ComfyUI: make test-comfyui COMFYUI_PATH=..."; exit 2; }
	COMFYUI_PATH="$(COMFYUI_PATH)" $(if $(COMFYUI_PYTHON),COMFYUI_PYTHON="$(COMFYUI_PYTHON)") OMP_NUM_THREADS=1 $(BIN)/pytest -n 0 -s -m comfyui tests/comfyui

clean:
	rm -rf .venv .install .quantize demo dist build
