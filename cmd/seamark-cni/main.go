// seamark-cni is the CNI plugin (CNI 1.1, and 0.3.1 to 1.0 for older
// runtimes). It is thin: it checks what the runtime handed it, posts that to
// seamarkd's unix socket and prints the answer. All the work is done by the
// daemon (package datapath/pod), which the plugin does not link.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

func main() { os.Exit(run()) }

// run executes the command that the environment names. It returns the exit
// status: 0, or 1 after having printed a CNI error.
func run() int {
	funcs := skel.CNIFuncs{
		Add:    add,
		Del:    func(args *skel.CmdArgs) error { return forward("del", args) },
		Check:  func(args *skel.CmdArgs) error { return forward("check", args) },
		Status: func(args *skel.CmdArgs) error { return forward("status", args) },
		GC:     func(args *skel.CmdArgs) error { return forward("gc", args) },
	}
	err := skel.PluginMainFuncsWithError(funcs, version.VersionsStartingFrom("0.3.1"), "seamark-cni: the CNI plugin of Seamark")
	if err == nil {
		return 0
	}
	if printErr := printError(withCure(err)); printErr != nil {
		fmt.Fprintln(os.Stderr, "seamark-cni: print error:", printErr)
	}
	return 1
}

func add(args *skel.CmdArgs) error {
	conf, err := readConfig(args.StdinData)
	if err != nil {
		return err
	}
	answer, err := conf.daemon().call("add", args)
	if err != nil {
		return err
	}
	result, err := types100.NewResult(answer)
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "read seamarkd's result: "+err.Error(),
			"seamark-cni and seamarkd are of different versions: install those of one release")
	}
	if err := types.PrintResult(result, conf.CNIVersion); err != nil {
		return types.NewError(types.ErrIOFailure, "print result: "+err.Error(), "")
	}
	fmt.Println()
	return nil
}

// forward is for the commands that answer with nothing but success.
func forward(command string, args *skel.CmdArgs) error {
	conf, err := readConfig(args.StdinData)
	if err != nil {
		return err
	}
	_, err = conf.daemon().call(command, args)
	return err
}

// config is the plugin's network configuration, as far as it matters here.
type config struct {
	CNIVersion string `json:"cniVersion"`
	// Socket is the path of seamarkd's CNI socket.
	Socket string `json:"socket"`
}

const defaultSocket = "/run/seamark/cni.sock"

func readConfig(stdin []byte) (config, error) {
	conf := config{Socket: defaultSocket}
	if err := json.Unmarshal(stdin, &conf); err != nil {
		return config{}, types.NewError(types.ErrInvalidNetworkConfig, "read network config: "+err.Error(),
			"see the field named; socket is a path such as "+defaultSocket)
	}
	if conf.Socket == "" {
		conf.Socket = defaultSocket
	}
	return conf, nil
}

func (c config) daemon() daemon { return daemon{socket: c.Socket} }

// withCure says what to do about the errors that skel finds by itself.
func withCure(err *types.Error) *types.Error {
	switch {
	case err.Code == types.ErrIncompatibleCNIVersion:
		cure := fmt.Sprintf("set the field \"cniVersion\" to %q", types100.ImplementedSpecVersion)
		if err.Details != "" {
			cure = err.Details + "; " + cure
		}
		return types.NewError(err.Code, err.Msg, cure)
	case err.Details != "":
		return err // the daemon's, or ours
	case err.Code == types.ErrInvalidNetworkConfig:
		return types.NewError(err.Code, err.Msg, `set the field "name" of the network config on stdin to the network's name`)
	case err.Code == types.ErrDecodingFailure:
		return types.NewError(err.Code, err.Msg, `the network config on stdin must be one JSON object with the fields "cniVersion", "name" and "type"`)
	}
	return err
}

// printError prints the error result (CNI 1.1, "Error"), which skel's own
// printing leaves without a cniVersion.
func printError(err *types.Error) error {
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "    ")
	enc.SetEscapeHTML(false)
	return enc.Encode(struct {
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{types100.ImplementedSpecVersion, err})
}
