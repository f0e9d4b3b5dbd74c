// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// CRC32c, the checksum of SCTP (RFC 9260, section 6.8 and appendix A): whole, and
// what a change of some bytes makes of it. Bits are in the order of the CRC's
// polynomials: the lowest bit of a byte comes first, and bit 31 of a word is x^0.
#pragma once

#include "bpf.h"

#define CRC32C_POLYNOMIAL 0x82f63b78 // without x^32

// times_x is a remainder times x.
static __always_inline __u32 times_x(__u32 remainder)
{
	return remainder >> 1 ^ (remainder & 1) * CRC32C_POLYNOMIAL;
}

// crc32c is the checksum of size bytes.
static __always_inline __le32 crc32c(const __u8 *from, __u32 size)
{
	__u32 crc = ~0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < size; i++) {
		crc ^= from[i];
#pragma clang loop unroll(full)
		for (int bit = 0; bit < 8; bit++)
			crc = times_x(crc);
	}
	return ~crc;
}

// crc32c_powers are what so many bytes behind others multiply their remainder by:
// x^8 to the power of each value (0 to 15) of each of the four digits of a length,
// in base 16, the lowest first.
static const __u32 crc32c_powers[4][16] = {
	{ 0x80000000, 0x00800000, 0x00008000, 0x00000080, 0x82f63b78, 0xfbc3faf9, 0x8b277743, 0x52a0c93f,
	  0x6ea2d55c, 0x1c08b7d6, 0xf56e0ef4, 0x34019664, 0xa66805eb, 0x7a1f6b24, 0xe75d06aa, 0xc94ec098 },
	{ 0x80000000, 0x18b8ea18, 0x510ac59a, 0xb2dea967, 0xb82be955, 0x36c41f1c, 0x19b29a35, 0xc9e90b9e,
	  0xb8fdb1e7, 0xe55ef1f3, 0x1fe0b5c3, 0xe0553f1e, 0x18e4a304, 0x2b830011, 0x56993a31, 0x0246e2e6 },
	{ 0x80000000, 0x88e56f72, 0x74c360a4, 0x631bb273, 0xe4172b16, 0x71892b1b, 0x835305c9, 0x196b1eae,
	  0x0d65762a, 0xafc81338, 0xb5a50ab7, 0xf373c3ac, 0x5f60970f, 0xd46d3063, 0x3a5275ea, 0x02331c01 },
	{ 0x80000000, 0x35d73a62, 0x28461564, 0x43eefc9f, 0xbf455269, 0x5edcdeb9, 0x65059450, 0x4e6f41a4,
	  0xe2ea32dc, 0xf5b95b32, 0x695a4c87, 0xf204502c, 0x9a4f01b6, 0x941a0916, 0x4303cb97, 0x4c3d3d65 },
};

// crc32c_times is the product of two remainders.
static __always_inline __u32 crc32c_times(__u32 a, __u32 b)
{
	__u32 product = 0;

#pragma clang loop unroll(disable)
	for (int bit = 0; bit < 32; bit++)
		product = times_x(product) ^ (b & -(a >> bit & 1));
	return product;
}

// crc32c_change is what changes in the CRC of size bytes, 65535 at most, when of
// the first four these bits, as in memory, are turned. What two messages of one
// length have in common does not count: the CRCs differ by the remainder of the
// turned bits, times x^8 for each byte. (A function of its own: it takes its time, and
// the paths of other packets are not to make room for it.)
__noinline __u32 crc32c_change(__u32 turned, __u32 size)
{
#pragma clang loop unroll(disable)
	for (int digit = 0; digit < 4; digit++)
		turned = crc32c_times(turned, crc32c_powers[digit][size >> 4 * digit & 15]);
	return turned;
}
