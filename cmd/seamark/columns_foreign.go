package main

import (
	"fmt"
	"strings"

	"github.com/seamark-lb/seamark/source"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// foreignColumns are the columns of another project's kind between name and
// age, as that project shows them.
func foreignColumns(kind source.Kind) columns {
	switch kind.Kind {
	case "CiliumLoadBalancerIPPool":
		return columns{
			flagColumn("DISABLED", false, "disabled"),
			{name: "CONFLICTING", cell: func(obj *unstructured.Unstructured) string {
				return conditionStatus(source.ConditionsOf(obj), "cilium.io/PoolConflict")
			}},
			{name: "IPS AVAILABLE", cell: func(obj *unstructured.Unstructured) string {
				for _, c := range source.ConditionsOf(obj) {
					if c.Type == "cilium.io/IPsAvailable" {
						return c.Message
					}
				}
				return "<unknown>"
			}},
		}
	case "IPAddressPool":
		return columns{
			flagColumn("AUTO ASSIGN", true, "autoAssign"),
			flagColumn("AVOID BUGGY IPS", false, "avoidBuggyIPs"),
			listColumn("ADDRESSES", "addresses"),
		}
	case "L2Advertisement":
		return columns{listColumn("IPADDRESSPOOLS", "ipAddressPools")}
	}
	return nil
}

// flagColumn shows a field of the spec, and what its absence means.
func flagColumn(name string, absent bool, field string) column {
	return column{name: name, cell: func(obj *unstructured.Unstructured) string {
		value, found, err := unstructured.NestedBool(obj.Object, "spec", field)
		if !found || err != nil {
			value = absent
		}
		return fmt.Sprint(value)
	}}
}

func listColumn(name, field string) column {
	return column{name: name, cell: func(obj *unstructured.Unstructured) string {
		items, _, _ := unstructured.NestedStringSlice(obj.Object, "spec", field)
		return or(strings.Join(items, ","), none)
	}}
}
