# clerk-connect: what one does with it. `make` alone prints this list.
#
# run and test need Go and make alone. Everything else that test can use (a C
# compiler, Java, PostgreSQL) it finds, or fetches by deployments/servers.

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
BENCHTIME   ?= 1s
FUZZTIME    ?= 30s
HISTORIES   ?= 1000000

.DEFAULT_GOAL := help
.PHONY: help build run test lint vuln bench fuzz soak reference services services-stop clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

build: ## build bin/clerk-connect
	CGO_ENABLED=0 go build -trimpath -o bin/clerk-connect ./cmd/clerk-connect

run: build ## try it: broker, simulated Clerk, connector and SQLite
	./bin/clerk-connect dev $(ARGS)

test: ## run every test that this machine can run, and say which
	@deployments/servers/run-tests.sh

lint: ## formatting, vet, staticcheck, shell syntax, tidy go.mod
	@test -z "$$(gofmt -l .)" || { echo "gofmt -w these:"; gofmt -l .; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go mod tidy -diff
	@for script in deployments/servers/*.sh .ci/run; do bash -n $$script || exit 1; done

vuln: ## known vulnerabilities in what is linked (needs the network)
	go run $(GOVULNCHECK) ./...

bench: ## benchmarks, each beside its stated limit
	@deployments/servers/run-benchmarks.sh $(BENCHTIME)

fuzz: ## each fuzzer for FUZZTIME
	@go list ./... | while read -r package; do \
	  for fuzzer in $$(go test -list '^Fuzz' "$$package" | grep '^Fuzz'); do \
	    go test -run '^$$' -fuzz "^$$fuzzer$$" -fuzztime $(FUZZTIME) "$$package" || exit 1; \
	  done; \
	done

soak: ## long searches: HISTORIES random interleavings, many kills (make services first)
	go test ./connector/sequencer -run Converges -rapid.checks=$(HISTORIES) -timeout 0
	eval "$$(deployments/servers/servers.sh env)"; for package in $$(go list ./sinks/...); do \
	  if go list -deps -test $$package | grep -q '^pgregory.net/rapid$$'; then \
	    go test -count=1 -timeout 0 -run 'Converges|Random|Moves|Crash|Model|TestSink|TestBed' $$package -rapid.checks=$$(($(HISTORIES) / 500)) || exit 1; \
	  fi; \
	done
	E2E_KILLS=200 go test ./cmd/e2e -count=1 -timeout 0 -v -run Kill

reference: ## write the configuration reference into README.md, from the code
	go run ./cmd/clerk-connect config reference --write README.md

services: ## start Kafka, the databases, a Schema Registry; print addresses
	@deployments/servers/servers.sh start

services-stop: ## stop them
	@deployments/servers/servers.sh stop

clean: ## remove what was built
	rm -rf bin
