// Package deploy holds how Seamark gets onto nodes: the Helm chart and the plain
// manifests made from it, the image, the systemd unit. Its tests render and check them.
package deploy

//go:generate ./generate.sh
