package build

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/progress"
)

//go:embed stage.sh
var stageScript []byte

//go:embed debootstrap.sh
var debootstrapScript []byte

//go:embed install_packages.sh
var installPackagesScript []byte

//go:embed settings.sh
var settingsScript []byte

// install lets FAI make the tree and keeps its log beside the image, whatever comes of it.
func (b *build) install(ctx context.Context) error {
	task := progress.Start(ctx, "FAI", 0, false)
	defer task.Abort()
	task.Say("preparing")
	if err := b.stage(); err != nil {
		return err
	}
	log, err := os.Create(b.base + ".build.log")
	if err != nil {
		return err
	}
	defer log.Close()
	failed := b.runFAI(ctx, log, task)
	if err := appendFile(log, filepath.Join(b.work, "log/fai/debian/last/scripts.log")); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := b.explain(failed, log.Name()); err != nil {
		return err
	}
	task.Say("tidying")
	if err := tidy(b.tree()); err != nil {
		return fmt.Errorf("the tree cannot be tidied: %w", err)
	}
	task.Done()
	return nil
}

// stage lays out the work directory as stage.sh expects it.
func (b *build) stage() error {
	for _, dir := range []string{"tree", "space", "etc/apt", "log"} {
		if err := os.MkdirAll(filepath.Join(b.work, dir), 0o755); err != nil {
			return err
		}
	}
	if b.place.inMemory {
		size := "size=" + strconv.FormatInt(b.place.size, 10) + ",mode=755"
		if err := unix.Mount("tmpfs", b.tree(), "tmpfs", 0, size); err != nil {
			return fmt.Errorf("no tmpfs for the tree: %w", err)
		}
	}
	if err := copySpace(b.space, filepath.Join(b.work, "space")); err != nil {
		return err
	}
	if err := b.writeScripts(); err != nil {
		return err
	}
	// Instead of /etc/fai: logs are not sent anywhere, and nothing of the machine's own FAI server counts.
	return writeFile(filepath.Join(b.work, "etc/fai.conf"), []byte("LOGUSER=\nFAI_LOGPROTO=none\n"), false)
}

func (b *build) writeScripts() error {
	scripts := map[string][]byte{"stage.sh": stageScript}
	if !b.Plain {
		scripts["fast/debootstrap"] = debootstrapScript
		scripts["fast/install_packages"] = installPackagesScript
		scripts["fast/settings"] = settingsScript
	}
	for name, text := range scripts {
		if err := writeFile(filepath.Join(b.work, name), text, true); err != nil {
			return err
		}
	}
	return nil
}

// runFAI returns FAI's exit status as an error. Everything it and its children print goes into log.
func (b *build) runFAI(ctx context.Context, log io.Writer, task *progress.Task) error {
	cmd := exec.CommandContext(ctx, "sh", filepath.Join(b.work, "stage.sh"), b.work, "-c", strings.Join(b.Classes, ","))
	cmd.Env = b.environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true,
		Pdeathsig:  syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	// The kernel kills a whole PID namespace with its first process.
	cmd.Cancel = func() error { return cmd.Process.Kill() }
	cmd.WaitDelay = 5 * time.Second
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return err
	}
	copied := make(chan error, 1)
	go func() { copied <- follow(r, log, task); r.Close() }()
	err = cmd.Wait()
	return errors.Join(err, <-copied)
}

// environment is all that FAI gets to know of this process's.
func (b *build) environment() []string {
	codename, _, _ := strings.Cut(b.Cell.Release.Name, "-")
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "LC_ALL=C", "TZ=UTC", "TERM=dumb", "DEBIAN_FRONTEND=noninteractive",
		"SOURCE_DATE_EPOCH=" + strconv.FormatInt(b.Time.Unix(), 10),
		"DEBCLOUD_CODENAME=" + codename,
		"DEBCLOUD_ARCH=" + b.Cell.Arch.Name,
		"DEBCLOUD_VENDOR=" + b.Cell.Vendor.Name,
		"DEBCLOUD_TYPE=" + b.Type.Name,
		"DEBCLOUD_VERSION=" + b.version(),
		"DEBCLOUD_MIRROR=" + b.Mirror.Debian,
		"DEBCLOUD_SECURITY_MIRROR=" + b.Mirror.Security,
		"DEBCLOUD_IMAGE_MIRROR=" + b.ImageMirror.Debian,
		"DEBCLOUD_IMAGE_SECURITY_MIRROR=" + b.ImageMirror.Security,
		// A failed task ends FAI: nothing after it could be right. 400 is less than the error of every task that installs or configures.
		"STOP_ON_ERROR=400",
		// One run of apt for all packages, and an unknown name is an error, where FAI would leave it out.
		"MAXPACKAGES=800", "FAI_DISABLE_PACKAGE_NAME_CHECK=1",
		// The tree is in memory already.
		"FAI_RAMDISKS=/nonexistent",
	}
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// follow copies what FAI prints into log, and its tasks into the progress line, until everything that could write has ended.
func follow(r io.Reader, log io.Writer, task *progress.Task) error {
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, _, err := lines.ReadLine()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if said := stageOf(string(line)); said != "" {
			task.Say("%s", said)
		}
		if _, err := fmt.Fprintf(log, "%s\n", line); err != nil {
			return err
		}
	}
}

// stages are what takes long in FAI, by the beginning of the line that announces it.
var stages = []struct{ begins, said string }{
	{"Calling debootstrap", "bootstrapping"},
	{"I: Extracting", "unpacking the base system"},
	{"I: Configuring", "configuring the base system"},
	{"Calling task_updatebase", "updating the base system"},
	{"Calling task_instsoft", "installing packages"},
	{"Fetched ", "unpacking packages"},
	{"Setting up ", "configuring packages"},
	{"Calling task_configure", "running scripts"},
	{"Calling task_tests", "running tests"},
}

func stageOf(line string) string {
	for _, s := range stages {
		if strings.HasPrefix(line, s.begins) {
			return s.said
		}
	}
	return ""
}

// appendFile appends the file at path to log under a heading; a file that is not there adds nothing.
func appendFile(log io.Writer, path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(log, "\n%s %s\n%s", logHeading, filepath.Base(path), text)
	return err
}

const logHeading = "==>"

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
