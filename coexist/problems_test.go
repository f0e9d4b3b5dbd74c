package coexist

import (
	"fmt"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

func TestProblems(t *testing.T) {
	own := CNIConfig{"10-seamark.conflist", []string{OwnPlugin, "portmap"}, ""}
	flannel := func(file string) CNIConfig { return CNIConfig{file, []string{"flannel", "portmap"}, ""} }
	healthy := func(change func(*Findings)) Findings {
		f := Findings{CNI: []CNIConfig{own}, AnyARP: []string{"eth0", "eth1"}}
		change(&f)
		return f
	}
	for name, row := range map[string]struct {
		found   Findings
		outside []string
		want    []string // what each message or cure has; none: no problem
	}{
		"all is well":        {healthy(func(f *Findings) {}), []string{"eth1"}, nil},
		"nothing found out":  {Findings{}, []string{"eth0", "eth1"}, nil},
		"no CNI at all":      {healthy(func(f *Findings) { f.CNI = nil }), []string{"eth1"}, nil},
		"another CNI later":  {healthy(func(f *Findings) { f.CNI = append(f.CNI, flannel("20-flannel.conflist")) }), []string{"eth1"}, nil},
		"another CNI first":  {healthy(func(f *Findings) { f.CNI = []CNIConfig{flannel("05-flannel.conflist"), own} }), []string{"eth1"}, []string{"wired by flannel: its configuration 05-flannel.conflist comes before 10-seamark.conflist"}},
		"another CNI alone":  {healthy(func(f *Findings) { f.CNI = []CNIConfig{flannel("10-flannel.conflist")} }), []string{"eth1"}, []string{"wired by flannel (10-flannel.conflist), not by seamark-cni"}},
		"two others":         {healthy(func(f *Findings) { f.CNI = []CNIConfig{flannel("1.conf"), flannel("2.conf")} }), []string{"eth1"}, []string{"wired by flannel (1.conf)"}},
		"a broken one first": {healthy(func(f *Findings) { f.CNI = []CNIConfig{{"1.conf", nil, "cut off"}, own} }), []string{"eth1"}, []string{"1.conf is none (cut off)"}},
		"broken, then another": {healthy(func(f *Findings) { f.CNI = []CNIConfig{{"1.conf", nil, "cut off"}, flannel("2.conf"), own} }), []string{"eth1"},
			[]string{"1.conf is none", "wired by flannel"}},
		"no forwarding":              {healthy(func(f *Findings) { f.NoForwarding = true }), []string{"eth1"}, []string{"net.ipv4.ip_forward is 0"}},
		"all strict":                 {healthy(func(f *Findings) { f.AllStrict, f.Strict = true, []string{"eth0", "eth1"} }), []string{"eth0", "eth1"}, []string{"net.ipv4.conf.all.rp_filter is 1"}},
		"one way out, strict":        {healthy(func(f *Findings) { f.Strict = []string{"eth1"} }), []string{"eth1"}, nil},
		"two ways out, one strict":   {healthy(func(f *Findings) { f.Strict = []string{"eth1", "eth9"} }), []string{"eth0", "eth1"}, []string{"filter of eth1 is strict"}},
		"inside strict":              {healthy(func(f *Findings) { f.Strict = []string{"eth9"} }), []string{"eth0", "eth1"}, nil},
		"outside is a bridge":        {healthy(func(f *Findings) { f.Bridges, f.BridgeNetfilter = []string{"br0"}, true }), []string{"br0"}, []string{"br0 is a bridge"}},
		"a bridge without netfilter": {healthy(func(f *Findings) { f.Bridges = []string{"br0"} }), []string{"br0"}, nil},
		"a bridge inside":            {healthy(func(f *Findings) { f.Bridges, f.BridgeNetfilter = []string{"br0"}, true }), []string{"eth1"}, nil},
		"ipvs":                       {healthy(func(f *Findings) { f.KubeProxy = []ProxyMode{ModeIPVS} }), []string{"eth1"}, []string{"answers ARP for them on eth1"}},
		"ipvs, strict ARP":           {healthy(func(f *Findings) { f.KubeProxy, f.AnyARP = []ProxyMode{ModeIPVS}, nil }), []string{"eth1"}, nil},
		"kube-proxy with iptables":   {healthy(func(f *Findings) { f.KubeProxy = []ProxyMode{ModeIPTables} }), []string{"eth1"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := Problems(row.found, "n1", row.outside, state.ForwardDSR)
			if len(got) != len(row.want) {
				t.Fatalf("%d problems, want %d: %v", len(got), len(row.want), got)
			}
			for i, p := range got {
				if p.Object != state.NodeRef("n1") || p.Cure == "" || !strings.Contains(p.Message, row.want[i]) {
					t.Errorf("problem %v, want %q of node n1, and a cure", p, row.want[i])
				}
			}
		})
	}
}

// Who wires pods is no matter where kube-proxy forwards.
func TestProblemsBesideKubeProxy(t *testing.T) {
	found := Findings{CNI: []CNIConfig{{"10-flannel.conflist", []string{"flannel"}, ""}}, NoForwarding: true}
	if got := Problems(found, "n1", []string{"eth1"}, state.ForwardKubeProxy); len(got) != 1 || !strings.Contains(got[0].Message, "ip_forward") {
		t.Errorf("problems %v, want that of ip_forward alone", got)
	}
}

func TestNotes(t *testing.T) {
	own := []CNIConfig{{"1.conf", []string{OwnPlugin}, ""}}
	other := []CNIConfig{{"1.conf", []string{"calico"}, ""}}
	calico := []Device{{"cali1", "Calico"}, {"cali2", "Calico"}, {"cali3", "Calico"}, {"cali4", "Calico"}, {"flannel.1", "Flannel"}}
	for name, row := range map[string]struct {
		found Findings
		want  []string
	}{
		"nothing":             {Findings{CNI: own}, nil},
		"kube-proxy":          {Findings{CNI: own, KubeProxy: []ProxyMode{ModeIPTables, ModeIPVS}, Devices: []Device{{ipvsDevice, "kube-proxy"}}}, []string{"kube-proxy (iptables, ipvs) serves ClusterIPs"}},
		"what another left":   {Findings{CNI: own, Devices: calico}, []string{"devices of Calico are here (cali1, cali2, cali3 and 1 more)", "devices of Flannel are here (flannel.1)"}},
		"another's own":       {Findings{CNI: other, Devices: calico}, nil}, // a problem says it
		"without any CNI yet": {Findings{Devices: calico}, nil},
	} {
		got := Notes(row.found)
		if len(got) != len(row.want) {
			t.Errorf("%s: %q, want %q", name, got, row.want)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], row.want[i]) {
				t.Errorf("%s: %q, want %q", name, got[i], row.want[i])
			}
		}
	}
}

func agent(product string, role state.AgentRole) state.Agent {
	return state.Agent{Object: state.ObjectRef{Group: "apps", Kind: "DaemonSet", Namespace: "kube-system", Name: strings.ToLower(product)},
		Product: product, Role: role}
}

func pool(group, kind string) state.Pool {
	return state.Pool{Origin: state.ObjectRef{Group: group, Kind: kind, Name: "p"}}
}

func TestCluster(t *testing.T) {
	const allocates, announces = state.AgentAllocates, state.AgentAnnounces
	metal, cilium, ours := pool("metallb.io", "IPAddressPool"), pool("cilium.io", "CiliumLoadBalancerIPPool"), pool("seamark.dev", "IPPool")
	disabled := metal
	disabled.Disabled = true
	// Objects that are left to MetalLB have no row but a Problem.
	left := []state.Problem{{Object: metal.Origin, Message: "MetalLB runs here and this IPAddressPool is left to it"}}
	community := []state.Problem{{Object: state.ObjectRef{Group: "metallb.io", Kind: "Community", Name: "c"}}}
	for name, row := range map[string]struct {
		agents    []state.Agent
		pools     []state.Pool
		found     []state.Problem
		classless string // to whom Services without class are left
		problems  []string
	}{
		"alone":                      {nil, []state.Pool{metal, cilium, ours}, nil, "", nil},
		"MetalLB with pools":         {[]state.Agent{agent("MetalLB", allocates)}, []state.Pool{metal}, nil, "MetalLB", []string{"MetalLB gives Services addresses, too: Services without spec.loadBalancerClass are left to it, and so are all objects of metallb.io"}},
		"MetalLB whole":              {[]state.Agent{agent("MetalLB", allocates), agent("MetalLB", announces)}, []state.Pool{metal}, nil, "MetalLB", []string{"gives", "MetalLB announces Services' addresses, too: Services without"}},
		"MetalLB without pools":      {[]state.Agent{agent("MetalLB", allocates), agent("MetalLB", announces)}, []state.Pool{ours, cilium}, nil, "", nil},
		"MetalLB's pool is disabled": {[]state.Agent{agent("MetalLB", allocates)}, []state.Pool{disabled}, nil, "", nil},
		"MetalLB's pools are left":   {[]state.Agent{agent("MetalLB", allocates)}, []state.Pool{ours}, left, "MetalLB", []string{"Services without spec.loadBalancerClass are left to it"}},
		"MetalLB has no pools yet":   {[]state.Agent{agent("MetalLB", allocates)}, []state.Pool{ours}, community, "", nil},
		"pools are left, to another": {[]state.Agent{agent("Cilium", allocates)}, []state.Pool{ours}, left, "", nil},
		"MetalLB's speakers alone": {[]state.Agent{agent("MetalLB", announces)}, []state.Pool{metal}, nil, "MetalLB",
			[]string{"MetalLB announces Services' addresses, too: Services without spec.loadBalancerClass are left to it, and so are all objects of metallb.io"}},
		"Cilium as the CNI alone": {[]state.Agent{agent("Cilium", state.AgentCNI)}, []state.Pool{cilium}, nil, "", nil},
		"Cilium with pools":       {[]state.Agent{agent("Cilium", allocates)}, []state.Pool{cilium, metal}, nil, "Cilium", []string{"left to it, and so are all objects of cilium.io"}},
		"PureLB":                  {[]state.Agent{agent("PureLB", allocates)}, []state.Pool{ours}, nil, "PureLB", []string{"PureLB gives Services addresses, too: Services without spec.loadBalancerClass are left to it; Seamark"}},
		"kube-vip announces":      {[]state.Agent{agent("kube-vip", announces)}, []state.Pool{ours}, nil, "", []string{"an address that both announce has two holders"}},
		"kube-proxy":              {[]state.Agent{agent("kube-proxy", state.AgentProxy)}, []state.Pool{ours}, nil, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			db, w := state.New()
			w.Update(func(tx *state.Tx) {
				for _, a := range row.agents {
					db.Agents.Put(tx, a)
				}
				for i, p := range row.pools {
					p.Name = fmt.Sprint(i)
					db.Pools.Put(tx, p)
				}
				for _, p := range row.found {
					db.SourceProblems.Put(tx, p)
				}
			})
			if by := state.LeavingsOf(db, db.Snapshot()).Classless(); by != row.classless {
				t.Errorf("Services without class are left to %q, want %q", by, row.classless)
			}
			problems := ClusterProblems(db, db.Snapshot())
			if len(problems) != len(row.problems) {
				t.Fatalf("problems %v, want %d", problems, len(row.problems))
			}
			for i, p := range problems {
				if p.Object != row.agents[i].Object || p.Cure == "" || !strings.Contains(p.Message, row.problems[i]) {
					t.Errorf("problem %v, want %q of %s, and a cure", p, row.problems[i], row.agents[i].Object)
				}
			}
		})
	}
}
