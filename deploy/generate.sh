#!/bin/sh
# generate.sh copies the CRDs into the chart and writes the plain manifests, which
# are the chart with its default values. Run by go generate.
set -eu
cd "$(dirname "$0")"
chart=charts/seamark
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT

rm -rf $chart/files
mkdir -p $chart/files/crds
cp ../api/v1alpha1/crds/*.yaml $chart/files/crds/
cp -r crds-compat $chart/files/

# template FILE TEMPLATE FLAG… adds what one of the chart's templates gives to $new/FILE.
# Helm asks no cluster, and is told a version that the chart supports.
template() {
	file=$1 name=$2
	shift 2
	go tool -modfile=../helm.mod helm template seamark $chart --namespace seamark-system \
		--kube-version 1.30.0 --show-only "templates/$name.yaml" "$@" >"$new/rendered"
	sed '/^# Source: /d; /helm.sh\/resource-policy/d' "$new/rendered" >>"$new/$file"
}

cat >"$new/rbac.yaml" <<'END'
# Who seamarkd is and what it may do in the cluster: nothing that is not listed
# here. Made from charts/seamark by go generate. kubectl apply -f takes the files
# of a directory by name: this one is first, and has the namespace.
apiVersion: v1
kind: Namespace
metadata:
  name: seamark-system
  labels:
    app.kubernetes.io/name: seamark
    # The daemon is in the node's network namespace and loads BPF programs.
    pod-security.kubernetes.io/enforce: privileged
END
template rbac.yaml rbac

cat >"$new/seamark.yaml" <<'END'
# The CRDs and the daemon, with the chart's default values; rbac.yaml has the rest.
# Your image goes in the place of seamark/seamark. Made from charts/seamark by go generate.
END
template seamark.yaml crds
template seamark.yaml daemonset

cat >"$new/cleanup.yaml" <<'END'
# For leaving: see docs/install.md. Your image goes in the place of seamark/seamark.
# Made from charts/seamark by go generate.
END
template cleanup.yaml cleanup --set cleanup.enabled=true

mkdir -p manifests/cleanup
cp "$new/rbac.yaml" "$new/seamark.yaml" manifests/
cp "$new/cleanup.yaml" manifests/cleanup/
