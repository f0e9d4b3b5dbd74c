package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Kernel is a kernel in the user's cache.
type Kernel struct {
	// Release as uname -r says it.
	Release string
	// Image to boot, and the folder of its modules.
	Image, Modules string
}

// metaPackage depends on the newest kernel of a suite.
const metaPackage = "linux-image-cloud-amd64"

// ErrUnreachable says that a suite of Debian's archive cannot be read.
var ErrUnreachable = errors.New("not reachable")

// Fetch gets the kernel of a suite (bookworm, bookworm-backports) from the
// mirror of Debian's archive that this machine uses, unless the cache has one.
func Fetch(ctx context.Context, suite string) (Kernel, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return Kernel{}, fmt.Errorf("fetch kernel: %w", err)
	}
	dir := filepath.Join(cache, "seamark", "vm", suite)
	if k, err := unpacked(dir); err == nil {
		return k, nil
	}
	if err := download(ctx, suite, dir); err != nil {
		return Kernel{}, fmt.Errorf("fetch kernel of %s: %w", suite, err)
	}
	return unpacked(dir)
}

// unpacked finds the kernel in a folder that its package was unpacked into.
func unpacked(dir string) (Kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return Kernel{}, fmt.Errorf("find kernel in %s: %d images there", dir, len(images))
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	return Kernel{Release: release, Image: images[0], Modules: filepath.Join(dir, "lib", "modules", release)}, nil
}

// download unpacks the suite's kernel into dir, all of it or nothing.
func download(ctx context.Context, suite, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), suite+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	mirror, err := debianMirror(ctx)
	if err != nil {
		return err
	}
	a := apt{dir: work}
	if err := a.use(ctx, mirror, suite); err != nil {
		return err
	}
	name, err := a.kernelPackage(ctx)
	if err != nil {
		return err
	}
	if _, err := a.run(ctx, "apt-get", "download", name); err != nil {
		return err
	}
	packages, err := filepath.Glob(filepath.Join(work, "linux-image-*.deb"))
	if err != nil || len(packages) != 1 {
		return fmt.Errorf("download %s: %d packages came", name, len(packages))
	}
	tree := filepath.Join(work, "tree")
	if _, err := a.run(ctx, "dpkg-deb", "--extract", packages[0], tree); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(tree, dir)
}

// debianMirror is where this machine's apt has Debian itself from.
func debianMirror(ctx context.Context) (string, error) {
	out, err := apt{}.run(ctx, "apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI) $(CODENAME)", "Created-By: Packages")
	if err != nil {
		return "", err
	}
	return mirrorOf(out)
}

// mirrorOf picks from lines "origin uri codename"; suites with a dash are
// additions, which may be elsewhere.
func mirrorOf(targets string) (string, error) {
	for line := range strings.Lines(targets) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[0] == "Debian" && !strings.Contains(fields[2], "-") {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("find a mirror of Debian: apt has none (run apt-get update): %w", ErrUnreachable)
}

// apt runs the package tools with sources and lists in a folder of their own,
// so that nothing about the machine changes.
type apt struct{ dir string }

func (a apt) use(ctx context.Context, mirror, suite string) error {
	source := fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", mirror, suite)
	if err := os.WriteFile(filepath.Join(a.dir, "sources.list"), []byte(source), 0o644); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(a.dir, "lists", "partial"), 0o755); err != nil {
		return err
	}
	if _, err := a.run(ctx, "apt-get", "update", "--error-on=any"); err != nil {
		return errors.Join(ErrUnreachable, err)
	}
	return nil
}

var dependency = regexp.MustCompile(`(?m)^Depends: (linux-image-\S+-cloud-amd64)`)

func (a apt) kernelPackage(ctx context.Context) (string, error) {
	out, err := a.run(ctx, "apt-cache", "show", metaPackage)
	if err != nil {
		return "", errors.Join(ErrUnreachable, err)
	}
	found := dependency.FindStringSubmatch(out)
	if found == nil {
		return "", fmt.Errorf("find kernel: %s depends on none", metaPackage)
	}
	return found[1], nil
}

func (a apt) run(ctx context.Context, tool string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if a.dir != "" {
		conf := filepath.Join(a.dir, "apt.conf")
		text := fmt.Sprintf(`Dir::Etc::sourcelist "%[1]s/sources.list"; Dir::Etc::sourceparts "-"; Dir::State::lists "%[1]s/lists";
Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache ""; APT::Sandbox::User "root"; quiet "2";
`, a.dir)
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			return "", err
		}
		cmd.Env = append(cmd.Env, "APT_CONFIG="+conf)
	}
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("run %s %s: %w: %s", tool, args[0], err, strings.TrimSpace(problems.String()))
	}
	return out.String(), nil
}
