PYTHON ?= python3
PORT ?= 8501
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help app test lint clean

help:
	@echo "make app    install what is needed into .venv and open the dashboard on http://127.0.0.1:$(PORT)"
	@echo "make test   check the code and run every test (SLOW=1: the slow ones too)"
	@echo "make lint   check the code only"
	@echo "make clean  remove .venv and caches"

app: $(VENV)/.app-ready
	$(BIN)/streamlit run app.py --server.port $(PORT)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "cxnet needs Python 3.11 to 3.13; name one with: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.app-ready: requirements.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.test-ready: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.app-ready

# Only needed to convert PyTorch checkpoints and to train with another backend than TensorFlow.
$(VENV)/.backends-ready: requirements-backends.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-backends.txt
	@touch $@

lint: $(VENV)/.test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict cxnet

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(if $(SLOW),,-m "not slow")

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
