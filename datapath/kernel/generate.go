package kernel

// The objects are committed, so that only those who change C need clang-14 and
// libbpf-dev. The output does not depend on where or by whom it is made.
//
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -type frontend_flags -type set_look -type slot -type small_slot -type backend_flags -type flow_flags -type nat_flags -type muted -type action -type claim -type event -type traced -type reason -type hook -type layout_version -type verdict_stride -type max_devices bpf ../../bpf/seamark.c -- -O2 -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
