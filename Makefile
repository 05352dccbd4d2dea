# Each target is a short script in scripts/, which also works where there is no make.
.PHONY: help run test test-long test-browser test-clients test-engines check audit format stubs model-eval bench clean

help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: ## install, start everything, ask one question, serve until ctrl-C
	@scripts/run

test: ## all tests but those that take minutes
	@scripts/test

test-clients: ## client libraries, in an environment of their own
	@scripts/test-clients

test-long: ## deployments that are killed, stopped and restarted, some minutes
	@scripts/test-long

test-browser: ## the chat page in a real Chromium
	@scripts/test-browser

test-engines: ## ranks over real MPI, and engines that need torch
	@scripts/test-engines

check: ## format, lint, types, stubs, import rule
	@scripts/check

audit: ## known vulnerabilities of what is installed; needs a network
	@scripts/audit

format: ## format the code
	@scripts/format

stubs: ## regenerate protos/gen
	@scripts/setup dev
	@PYTHON="$${QWENSERVE_VENV:-.venv}/bin/python" scripts/stubs

model-eval: ## score the small model
	@scripts/model-eval

bench: ## what `qwenserve bench` can measure
	@scripts/setup run
	@"$${QWENSERVE_VENV:-.venv}/bin/qwenserve" bench --help

clean: ## remove environments and caches
	@scripts/clean
