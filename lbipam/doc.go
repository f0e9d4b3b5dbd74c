// Package lbipam decides which Service of type LoadBalancer has which address.
//
// It is pure: the Services and pools of one snapshot go in, rows come out, the
// same ones for any order of the input. Addresses are kept as ranges, never
// one by one, so a pool of 2^80 addresses costs what a pool of eight costs.
//
// Services with one sharing key may have one address. What others have of a
// pool, such as a node or a gateway, is not free.
//
// What a Service carries in its status it keeps: that is all the memory there
// is from one daemon to the next, so a restart, or another coordinator, moves
// nothing. From one decision to the next an Allocator is carried, so that one
// Service's change costs what it touches, and not a look at all of them; a test
// holds it against a decision for all, step by step.
package lbipam
