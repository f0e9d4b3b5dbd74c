// Package vm boots other kernels than the one at hand, in QEMU's emulation,
// and runs programs on them: what a kernel lacks, or does in its own way, is
// seen on that kernel. The kernels are Debian's cloud kernels, from its
// archive, with an initramfs of the programs and of the modules that they need.
// Nothing of a machine is left when Run returns; the kernels stay in the
// user's cache.
package vm
