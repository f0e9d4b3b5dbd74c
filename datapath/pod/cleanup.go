package pod

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
)

// Cleanup removes what this package has put into the node's network namespace
// and into stateDir: the routes to other nodes' pods and those of BGP, the veths of pods with
// all that hangs on them, and the records. It takes out all it can, and
// returns what it could not. What is gone already is no error.
func Cleanup(stateDir string) error {
	errs := []error{cleanRoutes(), KernelRouteTable{}.Prune(context.Background(), nil)}
	recorded, _, _ := recordsIn(stateDir).read() // a file that cannot be read is removed all the same
	ours := map[string]bool{}
	for _, v := range recorded {
		ours[v.HostDevice] = true
	}
	links, err := whole(netlink.LinkList)
	if err != nil {
		errs = append(errs, fmt.Errorf("list links: %w", err))
	}
	for _, link := range links {
		name := link.Attrs().Name
		if _, ok := networkOf(link); ok || ours[name] {
			errs = append(errs, disconnect(name))
		}
	}
	if err := os.RemoveAll(recordsIn(stateDir).dir); err != nil {
		errs = append(errs, fmt.Errorf("remove records: %w", err))
	}
	return errors.Join(errs...)
}

func cleanRoutes() error {
	held, err := mainTable()
	if err != nil {
		return err
	}
	var errs []error
	for _, routes := range held {
		for _, route := range routes {
			if route.Protocol == ProtocolNode || route.Protocol == ProtocolPod {
				errs = append(errs, remove(&route))
			}
		}
	}
	return errors.Join(errs...)
}
