// Package lbipam decides which Service of type LoadBalancer has which address.
//
// It is pure: the Services and pools of one snapshot go in, rows come out, the
// same ones for any order of the input. Addresses are kept as ranges, never
// one by one, so a pool of 2^80 addresses costs what a pool of eight costs.
//
// Services with one sharing key may have one address. What others have of a
// pool, such as a node or a gateway, is not free.
//
// What a Service carries in its status it keeps: the allocator has no memory
// of its own, so a restart, or another coordinator, moves nothing.
package lbipam
