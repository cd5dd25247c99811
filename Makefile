# `make help` lists the targets. Nothing here is needed to build or test: `go build ./cmd/cmgr` and `go test ./...` do that alone.

SHELL       = /bin/bash
.SHELLFLAGS = -o pipefail -c

MODULE   = github.com/cmgr/cmgr
TOOL     = go tool -modfile=tools/go.mod
GOLANGCI = go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME = 30s
VERSION  = $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  = -s -w -buildid= -X main.version=$(VERSION)
PROTOS   = $(wildcard proto/*/v1/*.proto)
SOURCES  = $(shell find . -name '*.go' -not -name '*.pb.go' -not -name '*.connect.go' -not -path '*/testdata/*')
PAGES    = $(shell find . -name '*.[1-8]' -not -path '*/testdata/*' -not -path './.git/*')
BUILD    = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags='$(LDFLAGS)'

VM       = CMGR_VM_KERNEL=$$(tools/vm/kernel.sh) && export CMGR_VM_KERNEL && go test -count=1 -timeout 30m ./internal/vm

.PHONY: vm help build test race check floorplan vet fmt bench ratios fuzz generate stale lint man repro clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the static binary, bin/cmgr
	$(BUILD) -o bin/cmgr ./cmd/cmgr

test: ## all tests; what this machine lacks is skipped with its reason
	go test ./...

race: ## the same with the race detector, which needs a C compiler
	@if command -v gcc >/dev/null; then set -x; go test -race ./...; else echo 'race: skipped, no gcc'; fi

check: floorplan vet fmt stale test race man ## what every commit passes

vm: ## cmgr as process no. 1 of emulated machines (qemu-system-x86, busybox-static, apt-get)
	$(VM)

floorplan: ## who imports whom, and whether ARCHITECTURE.md is true
	go test .

vet: ## go vet and staticcheck
	go vet ./...
	$(TOOL) staticcheck ./...

fmt: ## is everything formatted? (gofumpt; `make fmt FIX=-w` formats)
	@out=$$($(TOOL) gofumpt -l $(FIX) $(SOURCES)); [ -z "$$out" ] || { echo "fmt: $$out"; [ -n "$(FIX)" ]; }

bench: ## cmgr beside other supervisors and runit's programs (root, gcc, python3, ../shared), then Go's benchmarks to bench.out
	tools/bench/peers.sh
	tools/bench/inet.sh
	python3 tools/bench/runit.py
	python3 tools/bench/confined.py
	go test -run '^$$' -bench . -benchmem -count=$${COUNT:-10} ./... | tee bench.out
	$(TOOL) benchstat bench.out # "load/json" is how many times encoding/json's time a manifest takes

ratios: ## manifests beside encoding/json, and the CPU time of verifying 10,000 of them
	go test -run '^$$' -bench '/ratios$$' -benchtime 7x ./manifest/cml
	go test -run '^$$' -bench '^BenchmarkVerify$$' -benchtime 3x ./runtime/verify

fuzz: ## every fuzz target for FUZZTIME
	@grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | while IFS=: read -r file func; do \
		echo "$$(dirname "$$file") $${func#func }"; \
		go test -run '^$$' -fuzz "^$${func#func }$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" </dev/null || exit 1; \
	done

# PROTOC runs protoc over every schema into the directory $(1).
PROTOC = protoc -I . \
	--plugin=protoc-gen-go="$$($(TOOL) -n protoc-gen-go)" --go_out=$(1) --go_opt=module=$(MODULE) \
	--plugin=protoc-gen-connect-go="$$($(TOOL) -n protoc-gen-connect-go)" --connect-go_out=$(1) --connect-go_opt=module=$(MODULE),simple \
	$(PROTOS)

generate: ## generated code (needs protoc)
	$(call PROTOC,.)

stale: ## is the generated code up to date?
	@command -v protoc >/dev/null || { echo 'stale: skipped, no protoc'; exit 0; }; \
	[ -n "$(PROTOS)" ] || exit 0; \
	new=$$(mktemp -d) && trap 'rm -r "$$new"' EXIT && $(call PROTOC,"$$new") && \
	(cd "$$new" && find . -type f) | while read -r f; do \
		diff -q <(grep -v 'protoc  *(\?v' "$$f") <(grep -v 'protoc  *(\?v' "$$new/$$f") || { echo "stale: $$f: run make generate"; exit 1; }; \
	done

lint: ## golangci-lint with .golangci.yml (builds it: minutes the first time)
	$(GOLANGCI) run ./...

man: ## the manual pages, by mandoc
	@command -v mandoc >/dev/null || { echo 'man: skipped, no mandoc'; exit 0; }; mandoc -Tlint -Wwarning $(PAGES)

repro: ## is the binary the same from two directories?
	@a=$$(mktemp -d) && b=$$(mktemp -d) && trap 'rm -rf "$$a" "$$b"' EXIT && \
	git archive HEAD | tar x -C "$$a" && git archive HEAD | tar x -C "$$b" && \
	for d in "$$a" "$$b"; do (cd "$$d" && GOCACHE="$$d/.cache" $(BUILD) -o bin/cmgr ./cmd/cmgr) || exit 1; done && \
	sha256sum "$$a/bin/cmgr" "$$b/bin/cmgr" && cmp "$$a/bin/cmgr" "$$b/bin/cmgr"

clean: ## what these targets made
	rm -rf bin bench.out
