// Package outage measures what people notice of faults: a lab of five nodes on
// two segments, a fault at a time, and from the router a UDP probe, streaming TCP
// connections and a watch on who answers ARP. Nothing here judges: it prints a table.
package outage
