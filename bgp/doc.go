// Package bgp advertises addresses to routers (RFC 4271): which sessions this
// node has and which routes go over them is decided purely from rows, and a
// Speaker, over GoBGP, is the target of what was decided.
package bgp
