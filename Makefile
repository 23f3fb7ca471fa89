# Every target sets up .venv by itself. Without make: see "Without make" in README.md.

# The first Python on the path that is new enough; failing that, any, which then says what it lacks.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10 python; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
ifeq ($(strip $(PYTHON)),)
PYTHON := $(shell command -v python3 || command -v python)
endif
BIN := .venv/bin

.PHONY: help book test chapters bench reproduce clean environment

help:  ## what there is to make
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

environment:
ifeq ($(strip $(PYTHON)),)
	@echo "environment: this machine lacks Python 3.10 or newer (Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python)" >&2; exit 1
else
	@$(PYTHON) tools/environment.py
endif

book: environment  ## build the site into _build/html; warnings are errors
	$(BIN)/jupyter-book build -W -n --keep-going book/

test: environment  ## run all tests, building the site on the way
	$(BIN)/python -m pytest

chapters: environment  ## run all chapters anew in place, and store their outputs
	$(BIN)/python book/_ext/chapters.py refresh

bench: environment  ## time descent against plain torch, as ratios
	$(BIN)/python benchmarks/descent.py

reproduce: environment  ## build twice from clean, compare everything, store the record
	$(BIN)/python tools/reproduce.py

clean:  ## remove what was built, keep .venv
	rm -rf _build .pytest_cache .hypothesis
