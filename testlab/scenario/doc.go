// Package scenario is the lab run inside `make test`: the daemons, commands and
// BPF programs as they ship, in a lab of their own for each test, seen from the
// router as a user sees them. It has no code but its tests, which need root.
package scenario
