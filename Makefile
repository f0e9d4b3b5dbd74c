# Everything here works on a fresh Debian 12 with Go, git and make, as root:
# what a target needs from Debian, it installs.

export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin
export CGO_ENABLED := 0

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/seamark-lb/seamark/cmd/internal/version.Version=$(VERSION)
BIN     := bin
LABS    := SEAMARK_BIN=$(abspath $(BIN)) $(GO) test -count=1 -timeout 30m -p 1 -parallel 3
TOOL    := $(GO) tool -modfile=$(CURDIR)/tools.mod

.PHONY: build demo demo-kube demo-down test test-kube test-vm test-short kube verify generate bench bench-bgp bench-outage fuzz lint deps-lab deps-peers deps-bpf deps-vm clean

build: ## static binaries in bin/
	@mkdir -p $(BIN)
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/seamarkd ./cmd/seamark ./cmd/seamark-cni ./testlab/cmd/testlab

demo: deps-lab build ## the main job, live; CI=1 ends by itself with an exit code
	@deploy/demo/demo.sh

demo-kube: kube deps-lab ## the same on a real Kubernetes control plane, through kubectl
	@CONTROL_PLANE=kube deploy/demo/demo.sh

demo-down: build ## remove the demo's lab
	@$(BIN)/testlab down --name sm

# Of the packages with labs one at a time, since they measure outages and share two
# cores: three labs at once, which wait more than they work, by the programs just built.
# Never from the cache, which does not know that they run them. The time that a test may
# take is that of a busy machine.
# What needs a real Kubernetes is skipped until its control plane has been built:
# FULL=1 builds it. Its path is told to go test, whose cache would not notice.
test: deps-lab deps-peers build $(if $(FULL),kube) ## everything, with the lab run inside; FULL=1: Kubernetes as well
	SEAMARK_KUBE=$$($(BIN)/testlab kube path 2>/dev/null) $(GO) test -timeout 30m $$($(GO) list ./... | grep -v '/testlab\|/deploy')
	$(LABS) ./testlab/... ./deploy

test-kube: deps-lab kube ## the tests that need a real Kubernetes, alone
	$(LABS) ./testlab/kubeapi $(patsubst %,./%/...,$(wildcard source/kube testlab/kubescenario))
	$(LABS) -run Kube ./testlab/cmd/testlab ./deploy

# Each kernel's tests take minutes where nothing else runs. RUN names some of them.
test-vm: deps-vm ## the datapath's tests on Linux 6.1, the oldest supported, and 6.12, in QEMU's emulation
	SEAMARK_VM=1 SEAMARK_VM_RUN='$(RUN)' $(GO) test -count=1 -timeout 2h -v ./testlab/vm

kube: build ## the real control plane, built once: minutes the first time
	@$(BIN)/testlab kube build

test-short: ## no lab, no kernel
	$(GO) test -short ./...

# SEED and FOR say which packets, and for how long; what fails prints its seed.
fuzz: ## random packets through the datapath's programs, ever others
	SEAMARK_FUZZ_SEED=$(or $(SEED),$$(date +%s)) SEAMARK_FUZZ_FOR=$(or $(FOR),10m) $(GO) test -count=1 -v -timeout 0 -run TestRandomPackets ./datapath/kernel

bench-outage: deps-lab deps-peers build ## what is noticed of faults, on the segment and over BGP, as tables of min/median/max; RUNS=20
	$(BIN)/testlab outage --name outage --runs $(or $(RUNS),3)
	$(BIN)/testlab outage --name outage --runs $(or $(RUNS),3) --bgp

# One package after the other: they would measure each other.
bench: deps-lab ## ns/packet of the XDP program, and of whole paths beside kube-proxy's nftables rules; the control plane
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 30m -p 1 ./datapath/kernel ./testlab/bench
	$(GO) test -run '^$$' -bench ControlPlane -benchtime 1x ./datapath

bench-bgp: deps-peers ## 10,000 addresses and 1,000 changes a second over BGP, to a router with FRR
	$(GO) test -run '^$$' -bench 'Scale|Decide' -benchtime 1x ./bgp

generate: deps-bpf ## BPF objects, deepcopy, CRDs, their reference in docs/objects.md, the chart's copies of them, plain manifests
	$(GO) generate ./...

verify: generate lint ## generated files are current, the code is vetted
	@git diff --exit-code --stat -- . || { echo "verify: generated files are not current; run 'make generate' and commit" >&2; exit 1; }
	@test -z "$$(git ls-files --others --exclude-standard)" || { echo "verify: generated files are not committed:" >&2; git ls-files --others --exclude-standard >&2; exit 1; }

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt: $$out" >&2; exit 1; }
	$(GO) vet ./...
	$(TOOL) staticcheck ./...

# apt-get only when something is missing, so that a warm machine needs no network.
LAB_TOOLS := arping:iputils-arping ndisc6:ndisc6 ip:iproute2 curl:curl tcpdump:tcpdump ethtool:ethtool ping:iputils-ping iptables-legacy:iptables nft:nftables
PEER_TOOLS := /usr/lib/frr/bfdd:frr birdc:bird2
BPF_TOOLS := clang-14:clang-14 llvm-strip-14:llvm-14

VM_TOOLS := qemu-system-x86_64:qemu-system-x86 xz:xz-utils

deps-lab:
	@deploy/demo/install.sh $(LAB_TOOLS)

deps-peers: # the routers that others' protocols are tested against
	@deploy/demo/install.sh $(PEER_TOOLS)

deps-bpf:
	@deploy/demo/install.sh $(BPF_TOOLS) /usr/include/bpf/bpf_helpers.h:libbpf-dev

deps-vm:
	@deploy/demo/install.sh $(VM_TOOLS)

clean:
	rm -rf $(BIN)
