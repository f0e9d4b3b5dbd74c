//go:build pins

package deps

// Modules that the design pins and nothing imports yet. Not every proxy lists
// their versions, so the one that will be needed is held in go.mod from the
// start; whoever imports a module first takes its line out of here.
import (
	_ "github.com/mdlayher/packet"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
)
