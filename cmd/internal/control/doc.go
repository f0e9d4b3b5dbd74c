// Package control is how the seamark CLI talks to seamarkd on the same node:
// HTTP and JSON over a unix socket that root alone may open (mode 0600).
//
//	GET    /v1/status                              Status
//	GET    /v1/health                              Health
//	GET    /v1/announcements                       []Announcement
//	GET    /v1/tables/TABLE                        the rows of a table of state.DB
//	GET    /v1/bpf/lb[?service=N/S]                text, one line per frontend and backend
//	GET    /v1/bpf/maglev?addr=A:P&protocol=TCP    Maglev
//	GET    /v1/bpf/tables/TABLE?service=N/S&limit=L  lines of rows of a table of the datapath
//	GET    /v1/counts                              Counts
//	GET    /v1/monitor?drops=B&service=N/S&reason=R&device=D  lines of PacketEvent, until the client goes
//	GET    /v1/objects/PLURAL.GROUP[?namespace=N]  list
//	GET    /v1/objects/PLURAL.GROUP/NAME[?namespace=N]
//	POST   /v1/objects/PLURAL.GROUP                create
//	PUT    /v1/objects/PLURAL.GROUP/NAME           update at metadata.resourceVersion
//	DELETE /v1/objects/PLURAL.GROUP/NAME[?namespace=N]
//
// Lines are JSON objects, each with a row; the last may instead say how many
// more there are, or what went wrong meanwhile. What goes wrong is answered as an Error with an HTTP status of 400 or more.
package control
