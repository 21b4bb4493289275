.PHONY: install check test golden bench clean

install:        ## everything a developer needs
	pip install -c constraints.txt -e ".[plot,test,dev]"

check:          ## lint and types; never edits
	ruff check .
	ruff format --check .
	mypy

test:           ## every test
	pytest

golden:         ## the table: groups of golden numbers, cases, worst error
	python -m tests.golden

bench:          ## FPS
	pytest --benchmark-only

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
