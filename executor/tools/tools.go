// Package tools makes the tools disk: a small read-only file system, attached to every job VM, with the agent (debcloud
// itself, static) and the host's own gitlab-runner. So no VM image is built again for a new version of either.
//
// A disk is named by what is in it and made once. The same programs give the same bytes, whoever makes it.
package tools

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/atomicfile"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/hold"
)

// How a guest finds the disk, and where the units of vmimages/runner mount it.
const (
	Serial     = "debcloud-tools" // of the virtio disk
	Label      = "debcloud-tools" // of the file system
	MountPoint = "/run/debcloud/tools"
)

// Spec says what to put on a tools disk.
type Spec struct {
	Debcloud string // path of debcloud, static
	Runner   string // path of gitlab-runner; "" leaves it out, and then jobs have neither artifacts nor caches
	Dir      string // directory of the disks, made if it is missing
}

// Disk is a tools disk: a raw image, not to be written to.
type Disk struct {
	Path   string
	Digest string // of what is in it, hexadecimal
}

const (
	prefix   = "debcloud-tools-"
	suffix   = ".raw"
	partial  = ".debcloud-tools-"
	form     = "1" // of the disk: another one makes other disks of the same programs
	stampsAt = ".debcloud-tools-digests.json"
)

// Make returns the disk of s, and makes it where it is not there yet. It needs mkfs.ext4 and debugfs (package e2fsprogs), but
// not root. A program that is missing, or a debcloud that is no static one, is an Input error.
func Make(ctx context.Context, s Spec) (Disk, error) {
	d, programs, err := s.disk()
	if err != nil {
		return Disk{}, err
	}
	if _, err := os.Stat(d.Path); err == nil {
		return d, nil
	}
	if err := demandStatic(s.Debcloud); err != nil {
		return Disk{}, err
	}
	return d, d.make(ctx, s.Dir, programs)
}

// disk names the disk of s, whether or not it is there.
func (s Spec) disk() (Disk, []program, error) {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return Disk{}, nil, fault.Inputf("tools disk: %w", err)
	}
	programs := []program{{name: "debcloud", path: s.Debcloud}}
	if s.Runner != "" {
		programs = append(programs, program{name: "gitlab-runner", path: s.Runner})
	}
	digest, err := digestOf(s.Dir, programs)
	if err != nil {
		return Disk{}, nil, err
	}
	return Disk{Path: filepath.Join(s.Dir, prefix+digest[:16]+suffix), Digest: digest}, programs, nil
}

// program is a file of the disk.
type program struct {
	name, path string
	size       int64
}

// digestOf digests the programs. Files are read once: what is remembered of them holds as long as the kernel says that
// they have not changed.
func digestOf(dir string, programs []program) (string, error) {
	stamps := map[string]string{}
	text, _ := os.ReadFile(filepath.Join(dir, stampsAt)) // lost ones are made again
	_ = json.Unmarshal(text, &stamps)
	all := sha256.New()
	fmt.Fprintf(all, "%s\n", form)
	changed := false
	for i := range programs {
		p := &programs[i]
		stamp, err := p.stamp()
		if err != nil {
			return "", err
		}
		sum := stamps[stamp]
		if len(sum) != hex.EncodedLen(sha256.Size) {
			if sum, err = digestOfFile(p.path); err != nil {
				return "", err
			}
			stamps[stamp], changed = sum, true
		}
		fmt.Fprintf(all, "%s %s\n", p.name, sum)
	}
	if changed {
		text, err := json.Marshal(stamps)
		if err != nil {
			return "", err
		}
		if err := atomicfile.Write(filepath.Join(dir, stampsAt), text, 0o600); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(all.Sum(nil)), nil
}

// stamp tells versions of a file apart without reading it.
func (p *program) stamp() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(p.path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", fault.WithHint(fault.Inputf("the tools disk needs %s, and %q is no such file: %w", p.name, p.path, errors.Join(err, errNoProgram)),
			"install it, or name its path in the executor's settings")
	}
	p.size = st.Size
	return fmt.Sprintf("%s %d:%d %d %d.%09d %d.%09d", p.path, st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec), nil
}

var errNoProgram = errors.New("a program is a file")

func digestOfFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fault.Inputf("tools disk: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// demandStatic refuses a program that needs a dynamic loader: the guest may have another one, or none that early.
func demandStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fault.Inputf("%s is no program of Linux: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fault.WithHint(fault.Inputf("%s is linked dynamically and would not run in every guest", path), "make debcloud builds one with CGO_ENABLED=0")
		}
	}
	return nil
}

// make writes the disk to a temporary name and renames it last.
func (d Disk) make(ctx context.Context, dir string, programs []program) error {
	workspace, err := os.MkdirTemp(dir, partial)
	if err != nil {
		return err
	}
	defer os.RemoveAll(workspace)
	tree := filepath.Join(workspace, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	size := int64(4 << 20)
	for _, p := range programs {
		if err := copyFile(p.path, filepath.Join(tree, p.name)); err != nil {
			return err
		}
		size += (p.size/blockSize + 1) * blockSize * 101 / 100
	}
	file := filepath.Join(workspace, "disk")
	if err := d.format(ctx, tree, file, size/blockSize); err != nil {
		return fmt.Errorf("tools disk: %w", err)
	}
	if err := stampInodes(ctx, file, programs); err != nil {
		return fmt.Errorf("tools disk: %w", err)
	}
	// A program that was replaced meanwhile must not go by the old one's digest.
	again, err := digestOf(dir, programs)
	if err != nil {
		return err
	}
	if again != d.Digest {
		return fault.Outsidef("a program of the tools disk was replaced while the disk was made")
	}
	if err := os.Chmod(file, 0o444); err != nil {
		return err
	}
	return os.Rename(file, d.Path)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fault.Inputf("tools disk: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(0o755), out.Close())
}

const blockSize = 4096

// features are the few that a read-only file system has a use for; any kernel reads them.
const features = "none,ext_attr,dir_index,filetype,extent,sparse_super,large_file,extra_isize"

func (d Disk) format(ctx context.Context, tree, file string, blocks int64) error {
	id := uuid.NewSHA1(uuid.NameSpaceURL, []byte("cloud.debian.org/tools/"+d.Digest)).String()
	return run(ctx, "", "mkfs.ext4", "-q", "-F", "-O", features, "-E", "root_owner=0:0,nodiscard,hash_seed="+id, "-U", id, "-L", Label,
		"-b", fmt.Sprint(blockSize), "-I", "256", "-N", "32", "-m", "0", "-d", tree, file, fmt.Sprint(blocks))
}

// stampInodes gives the files the owner and the times that they have on every host: mkfs.ext4 takes them from the tree, where
// change times cannot be set, and owners only by root.
func stampInodes(ctx context.Context, file string, programs []program) error {
	var commands strings.Builder
	names := []string{"/", "/lost+found"}
	for _, p := range programs {
		names = append(names, "/"+p.name)
	}
	for _, name := range names {
		for _, field := range []string{"uid", "gid", "atime_extra", "ctime_extra", "mtime_extra", "crtime_extra"} {
			fmt.Fprintf(&commands, "set_inode_field %s %s 0\n", name, field)
		}
		for _, field := range []string{"atime", "ctime", "mtime", "crtime"} {
			fmt.Fprintf(&commands, "set_inode_field %s %s @%s\n", name, field, epoch)
		}
	}
	return run(ctx, commands.String(), "debugfs", "-w", "-f", "-", file)
}

// epoch is the time of everything on the disk, 2020-01-01.
const epoch = "1577836800"

// run runs a program of e2fsprogs, which dies with ctx.
func run(ctx context.Context, stdin, name string, args ...string) error {
	path, err := lookPath(name)
	if err != nil {
		return fault.WithHint(fault.Outsidef("program %s is not installed", name), "install the Debian package e2fsprogs")
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "MKE2FS_CONFIG=/dev/null", "MKE2FS_SYNC=0", "E2FSPROGS_FAKE_TIME=" + epoch, "SOURCE_DATE_EPOCH=" + epoch}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(out.String()))
	}
	return nil
}

// lookPath finds programs of sbin too, which are on no ordinary user's PATH.
func lookPath(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

// oldAge is how old a disk is before Prune takes it: another debcloud may still be at work on the host, whose own disk it is.
const oldAge = 24 * time.Hour

// Prune removes from s.Dir the disks of other programs than those of s that are a day old, nobody holds (internal/hold) and no VM
// uses, and what killed runs left there. It returns the paths. inUse lists the disks of all VMs of the host; it is asked where
// there is something to remove.
func Prune(ctx context.Context, s Spec, inUse func(context.Context) ([]string, error)) ([]string, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var removed []string
	var errs []error
	for _, e := range entries {
		path, gone := filepath.Join(s.Dir, e.Name()), false
		switch {
		case strings.HasPrefix(e.Name(), prefix) && strings.HasSuffix(e.Name(), suffix) && olderThan(e, oldAge):
			gone, err = removeUnused(ctx, s, path, inUse)
		case (e.IsDir() && strings.HasPrefix(e.Name(), partial) || atomicfile.IsLeft(e.Name(), stampsAt)) && olderThan(e, leftAge):
			err = os.RemoveAll(path)
			gone = err == nil
		}
		errs = append(errs, err)
		if gone {
			removed = append(removed, path)
		}
	}
	return removed, errors.Join(errs...)
}

func removeUnused(ctx context.Context, s Spec, path string, inUse func(context.Context) ([]string, error)) (bool, error) {
	if current, _, err := s.disk(); err != nil || path == current.Path {
		return false, err
	}
	release, free := hold.Free(path)
	if !free {
		return false, nil
	}
	defer release()
	disks, err := inUse(ctx) // after that: who held it until now has a VM with it
	if err != nil || slices.ContainsFunc(disks, func(disk string) bool { return filepath.Base(disk) == filepath.Base(path) }) {
		return false, err
	}
	err = os.Remove(path)
	return err == nil, err
}

// leftAge tells what a killed run left from what a run is at: none takes an hour.
const leftAge = time.Hour

func olderThan(e fs.DirEntry, age time.Duration) bool {
	info, err := e.Info()
	return err == nil && time.Since(info.ModTime()) > age
}
