// Package kernel puts Seamark's BPF programs into the kernel and keeps them
// there: it loads them, attaches them to devices, pins all of it below a bpffs
// directory, and takes over what an earlier daemon left there without losing a
// packet. It assumes nothing else about the kernel: several nodes share one,
// each with a network namespace and a bpffs directory of its own.
//
// Everything that touches devices happens in the network namespace of the
// calling thread.
package kernel
