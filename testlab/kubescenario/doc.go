// Package kubescenario is package scenario with a real Kubernetes control plane:
// what kubectl shows and what a user notices while things come, go and break. It
// has no code but its tests, which need root and the control plane's binary.
package kubescenario
