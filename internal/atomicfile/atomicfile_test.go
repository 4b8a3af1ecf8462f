package atomicfile

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The environment of a process that writes until it is killed.
const envPath = "DEBCLOUD_TEST_WRITE"

func TestMain(m *testing.M) {
	if path := os.Getenv(envPath); path != "" {
		text := bytes.Repeat([]byte("a"), 1<<20)
		for end := time.Now().Add(time.Minute); time.Now().Before(end); {
			if err := Write(path, text, 0o644); err != nil {
				panic(err)
			}
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A killed writer leaves a whole file, and nothing that Sweep does not find.
func TestKilled(t *testing.T) {
	dir, temp := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "file")
	left := 0
	for n := 0; n < 100 && left == 0; n++ {
		_ = os.Remove(path)
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), envPath+"="+path, "TMPDIR="+temp)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			if _, err := os.Stat(path); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("no file after a minute")
			}
		}
		time.Sleep(time.Duration(n) * 100 * time.Microsecond)
		_ = c.Process.Kill()
		_ = c.Wait()
		if info, err := os.Stat(path); err != nil || info.Size() != 1<<20 {
			t.Fatalf("the file is not whole: %v, %v", info, err)
		}
		left = len(names(t, dir)) - 1
		if elsewhere := names(t, temp); len(elsewhere) > 0 {
			t.Fatalf("in TMPDIR is left %q", elsewhere)
		}
	}
	if left == 0 {
		t.Fatal("none of 100 writers was killed while it wrote")
	}
	if err := Sweep(path); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"file"}) {
		t.Errorf("after Sweep there is %q", got)
	}
}

func TestSweepKeepsOthers(t *testing.T) {
	dir := t.TempDir()
	want := strings.Fields(".file .file1a .other1 file file1")
	for _, name := range append(want, ".file1", ".file4053520336638607662") {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(filepath.Join(dir, "file")); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("there is %q, want %q", got, want)
	}
	if err := Sweep(filepath.Join(dir, "gone", "file")); err == nil {
		t.Error("no error for a directory that is not there")
	}
}

func TestPermissions(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	for _, row := range []struct {
		name  string
		write func(string, []byte, os.FileMode) error
		perm  os.FileMode
		want  os.FileMode
	}{
		{"new", Write, 0o644, 0o600},
		{"new whatever the umask", WriteMode, 0o644, 0o644},
		{"new whatever the umask", Write, 0o600, 0o644}, // it is there by now
	} {
		path := filepath.Join(dir, row.name)
		if err := row.write(path, []byte("text"), row.perm); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != row.want {
			t.Errorf("%s, written with %o, has %o", row.name, row.perm, got)
		}
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
