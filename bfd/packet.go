package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// packet is a BFD Control packet (RFC 5880 §4.1) without authentication.
type packet struct {
	diag  state.BFDDiag
	phase state.BFDPhase
	// poll and final are the P and F bits, demand the D bit. Of the C bit (control
	// plane independent) nothing is made, and it is never sent.
	poll, final, demand bool
	multiplier          uint8
	mine, yours         uint32 // discriminators
	// minTx is Desired Min TX Interval, minRx Required Min RX Interval. Required Min
	// Echo RX Interval is sent as 0: no echo function.
	minTx, minRx time.Duration
}

const (
	version   = 1
	packetLen = 24 // bytes, without authentication

	flagPoll       = 1 << 5
	flagFinal      = 1 << 4
	flagAuth       = 1 << 2
	flagDemand     = 1 << 1
	flagMultipoint = 1 << 0

	// maxMicros is the longest interval that is taken in, in microseconds: longer
	// ones are cut, so that no multiple of it overflows.
	maxMicros = uint32(time.Hour / time.Microsecond)
)

// Why a packet is refused, in the order of RFC 5880 §6.8.6.
var (
	errShort         = errors.New("shorter than a control packet")
	errVersion       = errors.New("not version 1")
	errLength        = errors.New("length field does not fit")
	errMultiplier    = errors.New("detect multiplier 0")
	errMultipoint    = errors.New("multipoint bit set")
	errDiscriminator = errors.New("my discriminator 0")
	errNoYours       = errors.New("your discriminator 0 in state Init or Up")
	errAuth          = errors.New("authenticated, and no authentication is in use")
	errPollFinal     = errors.New("poll and final bit set")
)

// parse reads a packet and refuses what RFC 5880 §6.8.6 discards without looking
// at a session.
func parse(b []byte) (packet, error) {
	if len(b) < packetLen {
		return packet{}, errShort
	}
	flags := b[1] & 0x3f
	p := packet{
		diag: state.BFDDiag(b[0] & 0x1f), phase: state.BFDPhase(b[1] >> 6),
		poll: flags&flagPoll != 0, final: flags&flagFinal != 0, demand: flags&flagDemand != 0,
		multiplier: b[2],
		mine:       binary.BigEndian.Uint32(b[4:]), yours: binary.BigEndian.Uint32(b[8:]),
		minTx: interval(b[12:]), minRx: interval(b[16:]),
	}
	length := int(b[3])
	switch {
	case b[0]>>5 != version:
		return packet{}, errVersion
	case length < packetLen || length > len(b):
		return packet{}, errLength
	case p.multiplier == 0:
		return packet{}, errMultiplier
	case flags&flagMultipoint != 0:
		return packet{}, errMultipoint
	case p.mine == 0:
		return packet{}, errDiscriminator
	case p.yours == 0 && (p.phase == state.BFDInit || p.phase == state.BFDUp):
		return packet{}, errNoYours
	case flags&flagAuth != 0:
		return packet{}, errAuth
	case p.poll && p.final:
		return packet{}, errPollFinal
	}
	return p, nil
}

func interval(b []byte) time.Duration {
	return time.Duration(min(binary.BigEndian.Uint32(b), maxMicros)) * time.Microsecond
}

// append appends the packet as it is on the wire.
func (p packet) append(b []byte) []byte {
	flags := byte(p.phase) << 6
	for _, f := range []struct {
		set bool
		bit byte
	}{{p.poll, flagPoll}, {p.final, flagFinal}, {p.demand, flagDemand}} {
		if f.set {
			flags |= f.bit
		}
	}
	b = append(b, version<<5|byte(p.diag), flags, p.multiplier, packetLen)
	b = binary.BigEndian.AppendUint32(b, p.mine)
	b = binary.BigEndian.AppendUint32(b, p.yours)
	b = binary.BigEndian.AppendUint32(b, uint32(p.minTx/time.Microsecond))
	b = binary.BigEndian.AppendUint32(b, uint32(p.minRx/time.Microsecond))
	return binary.BigEndian.AppendUint32(b, 0)
}

func (p packet) String() string {
	s := fmt.Sprintf("%v %d>%d tx %v rx %v ×%d", p.phase, p.mine, p.yours, p.minTx, p.minRx, p.multiplier)
	if p.diag != 0 {
		s += " (" + p.diag.String() + ")"
	}
	if p.poll {
		s += " poll"
	}
	if p.final {
		s += " final"
	}
	return s
}
