// Package bfd keeps BFD sessions (RFC 5880) in asynchronous mode, over one hop
// (RFC 5881) or several (RFC 5883), without authentication and without the echo
// function.
//
// Rows of state.BFDSession go in, rows of state.BFDState come out. What is said
// when is decided in packet.go, session.go and sessions.go, which have no clock
// and no socket; Speaker does the rest.
package bfd
