package kubeapi

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"
)

// sourceDir of the binary, a Go module of its own, in the checkout.
const sourceDir = "testlab/kube"

// build is how the binary is made: its sources, and where the result goes.
type build struct {
	source  string // folder of the module
	ldflags string // version in, symbols out
	version string // of Kubernetes: v1.35.4
	path    string // of the binary: <user's cache>/seamark/kube-<hash>/kube
}

// Binary finds the control plane's multi-call binary that was built from the
// sources as they are now; ok is false when Build has not made it yet.
func Binary() (path string, ok bool) {
	b, err := newBuild()
	if err != nil {
		return "", false
	}
	return b.path, b.done()
}

// ErrNotBuilt says that Binary found none, and the cure.
var ErrNotBuilt = errors.New("find the control plane's binary: it has not been built: run make test-kube, or testlab kube build")

// Build builds the binary unless it is there, which takes minutes when Go's
// build cache is cold, and says so on out. Those that nobody asked for in a week are removed.
func Build(ctx context.Context, out io.Writer) (path string, err error) {
	b, err := newBuild()
	if err != nil {
		return "", fmt.Errorf("build the control plane: %w", err)
	}
	if b.done() {
		now := time.Now()
		if err := os.Chtimes(filepath.Dir(b.path), now, now); err != nil {
			return "", fmt.Errorf("build the control plane: %w", err)
		}
		return b.path, nil
	}
	if err := b.run(ctx, out); err != nil {
		return "", fmt.Errorf("build the control plane: %w", err)
	}
	return b.path, nil
}

var kubernetesVersion = regexp.MustCompile(`\sk8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)\n`)

func newBuild() (build, error) {
	root, err := Checkout()
	if err != nil {
		return build{}, err
	}
	b := build{source: filepath.Join(root, sourceDir)}
	sources, err := filepath.Glob(filepath.Join(b.source, "*.go")) // sorted
	if err != nil {
		return build{}, fmt.Errorf("list its sources: %w", err)
	}
	hash := sha256.New()
	for _, file := range append(sources, filepath.Join(b.source, "go.mod"), filepath.Join(b.source, "go.sum")) {
		data, err := os.ReadFile(file)
		if err != nil {
			return build{}, fmt.Errorf("read its sources: %w", err)
		}
		fmt.Fprintf(hash, "%s %d\n%s", filepath.Base(file), len(data), data)
		if m := kubernetesVersion.FindSubmatch(data); filepath.Base(file) == "go.mod" && m != nil {
			const pkg = "k8s.io/component-base/version"
			b.version = string(m[1])
			// Without its version kubectl complains about that of the server.
			b.ldflags = fmt.Sprintf("-s -w -X %s.gitVersion=%s -X %s.gitMajor=%s -X %s.gitMinor=%s", pkg, m[1], pkg, m[2], pkg, m[3])
		}
	}
	if b.version == "" {
		return build{}, fmt.Errorf("read its sources: go.mod requires no k8s.io/kubernetes")
	}
	fmt.Fprintln(hash, b.ldflags)
	cache, err := os.UserCacheDir()
	if err != nil {
		return build{}, fmt.Errorf("find the cache folder: %w", err)
	}
	b.path = filepath.Join(cache, "seamark", fmt.Sprintf("kube-%x", hash.Sum(nil)[:8]), "kube")
	return b, nil
}

// Checkout is the root of Seamark's checkout, around this program or around the
// working directory.
func Checkout() (string, error) {
	var tried []error
	for _, find := range []func() (string, error){os.Executable, os.Getwd} {
		dir, err := find()
		if err != nil {
			tried = append(tried, err)
			continue
		}
		for ; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
			_, err = os.Stat(filepath.Join(dir, sourceDir, "go.mod"))
			if err == nil {
				return dir, nil
			}
		}
	}
	return "", errors.Join(append(tried,
		fmt.Errorf("find Seamark's checkout: no %s around this program or the working directory: run it in a checkout", sourceDir))...)
}

func (b build) done() bool { return unix.Access(b.path, unix.X_OK) == nil }

// run builds into a folder of its own and renames that, so that the binary is
// whole as soon as it is there.
func (b build) run(ctx context.Context, out io.Writer) error {
	dir := filepath.Dir(b.path)
	cache := filepath.Dir(dir)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	lock, err := os.Create(filepath.Join(cache, "kube.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		fmt.Fprintln(out, "waiting for another build of the control plane")
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
			return fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
	}
	if b.done() {
		return nil
	}
	fmt.Fprintf(out, "building the control plane, Kubernetes %s, into %s: this takes minutes the first time\n", b.version, dir)
	begin := time.Now()
	temp, err := os.MkdirTemp(cache, "building-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", b.ldflags, "-o", filepath.Join(temp, filepath.Base(b.path)), ".")
	cmd.Dir = b.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run go build in %s: %w", b.source, err)
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil { // there without the binary
		return err
	}
	if err := os.Rename(temp, dir); err != nil {
		return err
	}
	fmt.Fprintf(out, "built after %.0f s\n", time.Since(begin).Seconds())
	return removeOld(cache, begin.Add(-keepFor))
}

// keepFor is how long a binary stays that nobody asks for: labs may run of it.
const keepFor = 7 * 24 * time.Hour

// removeOld removes binaries of other sources, and what builds left that were
// killed, when they were last used before then.
func removeOld(cache string, then time.Time) error {
	for _, pattern := range []string{"kube-*", "building-*"} {
		found, err := filepath.Glob(filepath.Join(cache, pattern))
		if err != nil {
			return fmt.Errorf("remove old builds: %w", err)
		}
		for _, dir := range found {
			info, err := os.Stat(dir)
			if err != nil || info.ModTime().After(then) {
				continue
			}
			if err := os.RemoveAll(dir); err != nil {
				return fmt.Errorf("remove old builds: %w", err)
			}
		}
	}
	return nil
}
