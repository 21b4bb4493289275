.PHONY: install check test test-gpu golden bench compile clean

install:        ## everything a developer needs
	pip install -c constraints.txt -e ".[plot,test,dev]"

check:          ## lint and types; never edits
	ruff check .
	ruff format --check .
	mypy

test:           ## every test
	pytest

test-gpu:       ## proofs, sanitizers and benchmarks on this machine's GPU, into gpu-results/
	python -m benchmarks.gpu --out gpu-results

golden:         ## the table: groups of golden numbers, cases, worst error
	python -m tests.golden

bench:          ## times, GB/s, FPS, ratios to other ways
	pytest --benchmark-only

compile:        ## registers, shared memory and spills of every kernel, for GPUs that need not be here
	python -m benchmarks.compile

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
