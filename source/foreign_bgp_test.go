package source_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"golang.org/x/tools/txtar"
)

// bgpRows are the rows for BGP, but for what they and the others are called.
func (s store) bgpRows() []string {
	var all []string
	add := func(row any) {
		data, err := json.Marshal(row)
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%T %s", row, data))
	}
	snap := s.db.Snapshot()
	for row := range s.db.BGPInstances.All(snap) {
		row.Name, row.Origin = "", state.ObjectRef{}
		add(row)
	}
	for row := range s.db.BGPPeers.All(snap) {
		row.Name, row.Origin, row.Instances = "", state.ObjectRef{}, make([]string, len(row.Instances))
		row.BFDProfile = strings.TrimPrefix(row.BFDProfile, "BFDProfile/seamark-system/")
		add(row)
	}
	for row := range s.db.BGPAdvertisements.All(snap) {
		row.Name, row.Origin, row.Peers = "", state.ObjectRef{}, make([]string, len(row.Peers))
		add(row)
	}
	for row := range s.db.BFDProfiles.All(snap) {
		row.Name, row.Origin = "", state.ObjectRef{}
		add(row)
	}
	slices.Sort(all)
	return all
}

// Whole manifests of both projects give the rows that they give once they are converted.
func TestForeignBGPIsAsConverted(t *testing.T) {
	for _, name := range []string{"cilium", "metallb"} {
		t.Run(name, func(t *testing.T) {
			archive, err := txtar.ParseFile("foreign/testdata/" + name + ".txtar")
			if err != nil {
				t.Fatal(err)
			}
			rows := map[string][]string{}
			for _, file := range archive.Files {
				s := newStore(t)
				for doc := range strings.SplitSeq(string(file.Data), "\n---\n") {
					if strings.Contains(doc, "kind: BGP") || strings.Contains(doc, "kind: CiliumBGP") || strings.Contains(doc, "kind: Community") || strings.Contains(doc, "kind: BFDProfile") {
						s.put(doc)
					}
				}
				rows[file.Name] = s.bgpRows()
			}
			if len(rows["in.yaml"]) < 6 || !slices.Equal(rows["in.yaml"], rows["out.yaml"]) {
				t.Errorf("rows\n%s\nand converted\n%s", strings.Join(rows["in.yaml"], "\n"), strings.Join(rows["out.yaml"], "\n"))
			}
		})
	}
}

const (
	clusterConfig = `{apiVersion: cilium.io/v2, kind: CiliumBGPClusterConfig, metadata: {name: rack}, spec: {nodeSelector: {matchLabels: {rack: "0"}}, bgpInstances: [
		{name: a, localASN: 65001, peers: [{name: b-c, peerASN: 65000, peerAddress: 10.0.0.1, peerConfigRef: {name: tor}}, {name: plain, peerASN: 65000, peerAddress: 10.0.0.2}]},
		{name: a-b, localASN: 65002, peers: [{name: c, peerASN: 65000, peerAddress: 10.0.0.3, peerConfigRef: {name: tor}}]}]}}`
	peerConfig   = `{apiVersion: cilium.io/v2, kind: CiliumBGPPeerConfig, metadata: {name: tor}, spec: {timers: {holdTimeSeconds: %s}, authSecretRef: tor}}`
	nodeOverride = `{apiVersion: cilium.io/v2, kind: CiliumBGPNodeConfigOverride, metadata: {name: n1}, spec: {bgpInstances: [{name: a, routerID: 1.1.1.1, peers: [{name: plain, localAddress: 10.0.0.9}]}]}}`
)

// What Cilium's objects mean together follows each of them.
func TestCiliumBGPRows(t *testing.T) {
	s := newStore(t)
	peers := func(want ...string) {
		t.Helper()
		var got []string
		for p := range s.db.BGPPeers.All(s.db.Snapshot()) {
			got = append(got, fmt.Sprintf("%s of %s: %s hold %s, secret %s", p.Name, strings.Join(p.Instances, " "), p.Remote, p.Hold, p.PasswordSecret))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("peers\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	says := func(want string) {
		t.Helper()
		if got := strings.Join(s.problems(), "\n"); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("problems\n%s\nwant %q", got, want)
		}
	}
	s.put(clusterConfig)
	const config, a = "CiliumBGPClusterConfig/rack/", "CiliumBGPClusterConfig/rack/a"
	plain := config + "a-plain of " + a + ": 10.0.0.2 hold 1m30s, secret /"
	peers(plain)
	says(`ciliumbgpclusterconfig/rack: spec.bgpInstances[0].peers[0].peerConfigRef.name: there is no CiliumBGPPeerConfig "tor"`)
	status := func() state.ObjectStatus {
		for _, row := range source.ObjectStatuses(s.db, s.db.Snapshot()) {
			if row.Object.Kind == "CiliumBGPClusterConfig" {
				return row
			}
		}
		t.Error("nothing is said on the CiliumBGPClusterConfig")
		return state.ObjectStatus{}
	}
	conditions := func(row state.ObjectStatus) map[string]string {
		change, _ := source.ObjectStatusChange(row)
		all := map[string]string{}
		for _, c := range change.Conditions {
			all[c.Type] = string(c.Status)
		}
		return all
	}
	if got := conditions(status()); !maps.Equal(got, map[string]string{"seamark.dev/Accepted": "False", "cilium.io/NoMatchingNode": "True", "cilium.io/MissingPeerConfigs": "True"}) {
		t.Errorf("conditions %v", got)
	}

	kind := s.put(fmt.Sprintf(peerConfig, "9"))
	s.writer.Update(func(tx *state.Tx) {
		s.tables.Replace(tx, source.KindSecret(), nil)
		s.db.Nodes.Put(tx, state.Node{Name: "n1", Labels: map[string]string{"rack": "0"}})
	})
	with := []string{config + "a-b-c of " + a + ": 10.0.0.1 hold 9s, secret seamark-system/tor",
		config + "a-b-c/2 of " + a + "-b: 10.0.0.3 hold 9s, secret seamark-system/tor", plain}
	peers(with...)
	says("Secret seamark-system/tor is not there")
	s.put(secretNamed("tor", "password: aGlkZGVu"))
	says("")
	if got := conditions(status()); !maps.Equal(got, map[string]string{"seamark.dev/Accepted": "True", "cilium.io/NoMatchingNode": "False", "cilium.io/MissingPeerConfigs": "False"}) {
		t.Errorf("conditions %v", got)
	}

	s.put(fmt.Sprintf(peerConfig, "1")) // wrong: what it said before stays
	peers(with...)
	says("ciliumbgppeerconfig/tor: spec.timers.holdTimeSeconds: 1 is out of range")
	s.put(fmt.Sprintf(peerConfig, "30"))
	peers(strings.Replace(with[0], "9s", "30s", 1), strings.Replace(with[1], "9s", "30s", 1), plain)
	s.put(strings.Replace(clusterConfig, "localASN: 65001", "localASN: 0", 1))
	says("ciliumbgpclusterconfig/rack: spec.bgpInstances[0].localASN: 0 is out of range")
	peers(strings.Replace(with[0], "9s", "30s", 1), strings.Replace(with[1], "9s", "30s", 1), plain)
	s.put(clusterConfig)
	says("")

	s.put(nodeOverride)
	instance, _ := s.db.BGPInstances.Get(s.db.Snapshot(), a)
	peer, _ := s.db.BGPPeers.Get(s.db.Snapshot(), a+"-plain")
	if instance.Overrides["n1"].RouterID.String() != "1.1.1.1" || peer.Sources["n1"].String() != "10.0.0.9" || instance.ASN != 65001 {
		t.Errorf("the override gives %+v, %+v", instance, peer)
	}
	s.writer.Update(func(tx *state.Tx) { s.tables.Remove(tx, kind, "tor") })
	peers(plain)

	agent := state.Agent{Object: state.ObjectRef{Kind: "DaemonSet", Name: "cilium"}, Product: state.ProductCilium, Role: state.AgentAnnounces}
	agree := func(there bool) {
		s.writer.Update(func(tx *state.Tx) {
			if s.db.Agents.Delete(tx, agent.RowKey()); there {
				s.db.Agents.Put(tx, agent)
			}
			s.tables.Agree(tx)
		})
	}
	agree(true)
	peers()
	says("ciliumbgpnodeconfigoverride/n1: Cilium runs here")
	agree(false)
	peers(plain)
	for _, kind := range source.ForeignKinds() {
		s.writer.Update(func(tx *state.Tx) { s.tables.Replace(tx, kind, nil) })
	}
	peers()
	says("")
	if left := s.db.BGPInstances.Rows(s.db.Snapshot()); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
}

// MetalLB's peers share an instance of their AS number, and Communities explain
// what advertisements name.
func TestMetalLBBGPRows(t *testing.T) {
	s := newStore(t)
	peer := func(name, more string) source.Kind {
		return s.put(fmt.Sprintf("{apiVersion: metallb.io/v1beta2, kind: BGPPeer, metadata: {name: %s, namespace: m}, spec: {myASN: 65001, peerASN: 65000, peerAddress: %s}}", name, more))
	}
	kind := peer("one", "10.0.0.1, passwordSecret: {name: tor, namespace: seamark-system}")
	peer("two", "10.0.0.2")
	const advertisement = "{apiVersion: metallb.io/v1beta1, kind: BGPAdvertisement, metadata: {name: all, namespace: m}, spec: {peers: [two], communities: [blue, \"65000:2\"]}}"
	s.put(advertisement)
	is := func(what, instances, peers string, communities ...uint32) {
		t.Helper()
		snap := s.db.Snapshot()
		var i, p []string
		for row := range s.db.BGPInstances.All(snap) {
			i = append(i, fmt.Sprintf("%s AS%d", row.Name, row.ASN))
		}
		for row := range s.db.BGPPeers.All(snap) {
			p = append(p, row.Name+" of "+strings.Join(row.Instances, " "))
		}
		slices.Sort(p)
		if strings.Join(i, ", ") != instances || strings.Join(p, ", ") != peers {
			t.Errorf("%s: instances %q, peers %q", what, i, p)
		}
		a, _ := s.db.BGPAdvertisements.Get(snap, "BGPAdvertisement/m/all")
		if !slices.Equal(a.Peers, []string{"BGPPeer/m/two"}) || len(a.Addresses) != 1 || !reflect.DeepEqual(a.Addresses[0].Attributes.Communities, communities) {
			t.Errorf("%s: advertisement %+v", what, a)
		}
	}
	const one, two, instance = "BGPPeer/m/one of MetalLB/as65001", "BGPPeer/m/two of MetalLB/as65001", "MetalLB/as65001 AS65001"
	is("two peers", instance, one+", "+two, 65000<<16|2)
	if got := strings.Join(s.problems(), "\n"); !strings.Contains(got, `spec.communities[0]: "blue" is no community, and no Community object explains it`) {
		t.Errorf("problems %s", got)
	}
	s.put("{apiVersion: metallb.io/v1beta1, kind: Community, metadata: {name: c, namespace: m}, spec: {communities: [{name: blue, value: \"65000:1\"}]}}")
	is("a Community", instance, one+", "+two, 65000<<16|1, 65000<<16|2)
	s.writer.Update(func(tx *state.Tx) { s.tables.Replace(tx, source.KindSecret(), nil) })
	if got := s.problems(); len(got) != 1 || !strings.HasPrefix(got[0], "bgppeer/m/one: spec.passwordSecret: Secret seamark-system/tor is not there") {
		t.Errorf("problems %q", got)
	}
	s.writer.Update(func(tx *state.Tx) { s.tables.Remove(tx, kind, "m/one") })
	is("one peer", instance, two, 65000<<16|1, 65000<<16|2)
	if got := s.problems(); len(got) > 0 {
		t.Errorf("problems %q", got)
	}
	s.writer.Update(func(tx *state.Tx) { s.tables.Remove(tx, kind, "m/two") })
	is("no peer", "", "", 65000<<16|1, 65000<<16|2)

	peer("watched", "10.0.0.3, bfdProfile: fast")
	s.put("{apiVersion: metallb.io/v1beta1, kind: BFDProfile, metadata: {name: fast, namespace: m}, spec: {transmitInterval: 100}}")
	watched, _ := s.db.BGPPeers.Get(s.db.Snapshot(), "BGPPeer/m/watched")
	if profile, ok := s.db.BFDProfiles.Get(s.db.Snapshot(), watched.BFDProfile); !ok || profile.MinTx != 100*time.Millisecond {
		t.Errorf("the profile of %+v is %+v", watched, profile)
	}
}
