package source_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// The rows of Seamark's own kinds for BGP say what the objects do.
func TestBGPRows(t *testing.T) {
	s := newStore(t)
	s.put(`{apiVersion: seamark.dev/v1alpha1, kind: BGPInstance, metadata: {name: tor}, spec: {localASN: 4200000001, listenPort: 179,
		nodeSelector: {matchLabels: {rack: "1"}}, nodeOverrides: [{node: k8s-w1, routerID: 10.0.0.1}]}}`)
	s.put(`{apiVersion: seamark.dev/v1alpha1, kind: BGPPeer, metadata: {name: router, labels: {role: tor}}, spec: {peerAddress: "fe80::1%eth1", peerASN: 65000,
		timers: {holdTimeSeconds: 9, keepAliveTimeSeconds: 3}, ttlSecurityHops: 2, gracefulRestart: {enabled: true}, families: [{afi: ipv6, safi: unicast, maxPrefixes: 10}],
		passwordSecretRef: {name: tor, namespace: seamark-system}, nodeOverrides: [{node: k8s-w1, sourceAddress: "fd00::2"}], importPrefixes: [{cidr: 172.20.0.0/16}, {cidr: 172.20.0.0/16, ge: 24}, {cidr: 172.20.0.0/16, le: 24}, {cidr: "::/0"}, {cidr: "::/0", le: 48}], bfdProfile: fast}}`)
	s.put(`{apiVersion: seamark.dev/v1alpha1, kind: BFDProfile, metadata: {name: fast}, spec: {receiveInterval: 10, transmitInterval: 100, detectMultiplier: 5, passiveMode: true, minimumTTL: 60}}`)
	s.put(`{apiVersion: seamark.dev/v1alpha1, kind: BFDProfile, metadata: {name: usual}}`)
	s.put(`{apiVersion: seamark.dev/v1alpha1, kind: BGPAdvertisement, metadata: {name: all}, spec: {peers: [router], advertisements: [
		{type: LoadBalancer, pools: [lab], aggregationLengthIPv4: 24, attributes: {med: 50, localPreference: 0, asPathPrepend: 2,
			communities: {standard: ["65000:100"], wellKnown: [no-export], large: ["4200000001:1:2"]}}}, {type: PodCIDR}, {type: ClusterIP}]}}`)
	snap := s.db.Snapshot()

	instance, _ := s.db.BGPInstances.Get(snap, "tor")
	if instance.ASN != 4200000001 || instance.ListenPort != 179 || instance.NodeSelector == nil || instance.Overrides["k8s-w1"].RouterID != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("instance %+v", instance)
	}
	peer, _ := s.db.BGPPeers.Get(snap, "router")
	want := state.BGPSessionConfig{ConnectRetry: 10 * time.Second, Hold: 9 * time.Second, KeepAlive: 3 * time.Second, TTLSecurity: 2, GracefulRestart: 120 * time.Second}
	if peer.BGPSessionConfig != want || peer.Remote != netip.MustParseAddr("fe80::1%eth1") || peer.RemotePort != 179 || peer.ASN.Number != 65000 ||
		peer.Labels["role"] != "tor" || peer.Sources["k8s-w1"] != netip.MustParseAddr("fd00::2") || peer.PasswordSecret.Name != "tor" || peer.BFDProfile != "fast" ||
		len(peer.Families) != 1 || !peer.Families[0].IPv6 || peer.Families[0].MaxPrefixes != 10 {
		t.Errorf("peer %+v", peer)
	}
	pods, all := netip.MustParsePrefix("172.20.0.0/16"), netip.MustParsePrefix("::/0")
	if want := []state.BGPImport{{Prefix: pods, From: 16, To: 16}, {Prefix: pods, From: 24, To: 32}, {Prefix: pods, From: 16, To: 24},
		{Prefix: all}, {Prefix: all, From: 1, To: 48}}; !slices.Equal(peer.Import, want) {
		t.Errorf("imports %+v, want %+v", peer.Import, want)
	}
	advertisement, _ := s.db.BGPAdvertisements.Get(snap, "all")
	number := func(n uint32) *uint32 { return &n }
	wantAddresses := []state.BGPAddresses{{Kind: state.KindLoadBalancer, Pools: []string{"lab"}, Aggregate4: 24, Attributes: state.BGPAttributes{
		Communities: []uint32{65000<<16 | 100, 0xffffff01}, Large: [][3]uint32{{4200000001, 1, 2}}, LocalPref: number(0), MED: number(50), Prepend: 2}}, {}, {Kind: state.KindClusterIP}}
	if !slices.Equal(advertisement.Peers, []string{"router"}) || !reflect.DeepEqual(advertisement.Addresses, wantAddresses) {
		t.Errorf("advertisement %+v", advertisement)
	}

	for name, want := range map[string]state.BFDConfig{
		"fast":  {MinRx: state.MinBFDInterval, MinTx: 100 * time.Millisecond, Multiplier: 5, Passive: true, MinTTL: 60},
		"usual": {MinRx: 300 * time.Millisecond, MinTx: 300 * time.Millisecond, Multiplier: 3, MinTTL: 254},
	} {
		if profile, _ := s.db.BFDProfiles.Get(snap, name); profile.BFDConfig != want {
			t.Errorf("BFDProfile %s: %+v, want %+v", name, profile, want)
		}
	}

	problems := fmt.Sprint(s.problems())
	for _, field := range []string{"spec.receiveInterval"} {
		if !strings.Contains(problems, field) {
			t.Errorf("nothing is said of %s: %s", field, problems)
		}
	}
}
