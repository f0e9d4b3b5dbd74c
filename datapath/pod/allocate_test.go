package pod

import (
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

func TestAllocate(t *testing.T) {
	addrs := func(ss ...string) (as []netip.Addr) {
		for _, s := range ss {
			as = append(as, netip.MustParseAddr(s))
		}
		return as
	}
	for _, tc := range []struct {
		name, cidr  string
		used, freed []netip.Addr
		want        string // "" none
	}{
		{"lowest, not the network's", "172.20.1.0/24", nil, nil, "172.20.1.1"},
		{"host bits", "172.20.1.77/24", nil, nil, "172.20.1.1"},
		{"gap", "172.20.1.0/24", addrs("172.20.1.1", "172.20.1.3"), nil, "172.20.1.2"},
		{"freed ones last", "172.20.1.0/24", addrs("172.20.1.1"), addrs("172.20.1.3", "172.20.1.2"), "172.20.1.4"},
		{"freed the longest ago first", "172.20.1.0/29", addrs("172.20.1.1", "172.20.1.4", "172.20.1.5", "172.20.1.6"), addrs("172.20.1.3", "172.20.1.2"), "172.20.1.3"},
		{"freed but still held", "172.20.1.0/30", addrs("172.20.1.1"), addrs("172.20.1.1", "172.20.1.2"), "172.20.1.2"},
		{"freed of another CIDR", "172.20.1.0/30", addrs("172.20.1.1", "172.20.1.2"), addrs("172.20.9.1"), ""},
		{"not the broadcast", "172.20.1.0/30", addrs("172.20.1.1", "172.20.1.2"), nil, ""},
		{"/31 has neither", "172.20.1.0/31", addrs("172.20.1.0"), nil, "172.20.1.1"},
		{"/32", "172.20.1.7/32", nil, nil, "172.20.1.7"},
		{"/32 used", "172.20.1.7/32", addrs("172.20.1.7"), nil, ""},
		{"end of the address space", "255.255.255.254/31", addrs("255.255.255.254"), nil, "255.255.255.255"},
		{"end of the address space, full", "255.255.255.254/31", addrs("255.255.255.254", "255.255.255.255"), nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			used := map[netip.Addr]bool{}
			for _, a := range tc.used {
				used[a] = true
			}
			got, ok := allocate(netip.MustParsePrefix(tc.cidr), func(a netip.Addr) bool { return used[a] }, tc.freed)
			if ok != (tc.want != "") || ok && got.String() != tc.want {
				t.Errorf("got %v %v, want %q", got, ok, tc.want)
			}
		})
	}
}

// Every address but two is given out, each once.
func TestAllocateAll(t *testing.T) {
	used := map[netip.Addr]bool{}
	cidr := netip.MustParsePrefix("172.20.1.0/24")
	for {
		a, ok := allocate(cidr, func(a netip.Addr) bool { return used[a] }, nil)
		if !ok {
			break
		}
		if used[a] || !cidr.Contains(a) {
			t.Fatalf("gave out %v", a)
		}
		used[a] = true
	}
	if len(used) != 254 {
		t.Errorf("gave out %d addresses, want 254", len(used))
	}
}

func TestIdentity(t *testing.T) {
	seen := map[string]bool{}
	for _, key := range [][2]string{{"c1", "eth0"}, {"c1", "eth1"}, {"c2", "eth0"}} {
		device, podMAC, hostMAC := identity(key[0], key[1])
		if !IsPodDevice(device) || len(device) > 15 {
			t.Errorf("device %q", device)
		}
		for _, s := range []string{device, podMAC, hostMAC} {
			if seen[s] {
				t.Errorf("%s twice", s)
			}
			seen[s] = true
		}
		if again, _, _ := identity(key[0], key[1]); again != device {
			t.Errorf("identity is not the same twice: %s, %s", device, again)
		}
	}
}

func TestPodOf(t *testing.T) {
	for _, tc := range []struct {
		args string
		want state.ObjectName
		bad  bool
	}{
		{"", state.ObjectName{}, false},
		{"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=a=b", state.ObjectName{Namespace: "default", Name: "web-0"}, false},
		{"K8S_POD_NAME=web-0;", state.ObjectName{Name: "web-0"}, false},
		{"K8S_POD_NAME", state.ObjectName{}, true},
	} {
		got, err := podOf(tc.args)
		if (err != nil) != tc.bad || err == nil && got != tc.want {
			t.Errorf("podOf(%q) = %v, %v", tc.args, got, err)
		}
	}
}
