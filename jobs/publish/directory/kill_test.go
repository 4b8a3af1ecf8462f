package directory

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// The environment of a child that publishes and dies at its KILL_AT-th change of the tree.
const (
	envBuild  = "DEBCLOUD_TEST_PUBLISH"
	envTree   = "DEBCLOUD_TEST_TREE"
	envKillAt = "DEBCLOUD_TEST_KILL_AT"
)

func TestMain(m *testing.M) {
	if build := os.Getenv(envBuild); build != "" {
		publishAndDie(build)
	}
	if os.Getenv("TMPDIR") == "" && unix.Access("/dev/shm", unix.W_OK) == nil {
		os.Setenv("TMPDIR", "/dev/shm") // publishing syncs every file, which takes seconds on a busy disk
	}
	os.Exit(m.Run())
}

func publishAndDie(build string) {
	at, _ := strconv.Atoi(os.Getenv(envKillAt))
	n := 0
	cut = func(string) {
		if n++; n == at {
			unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	_, err := publish.Publish(context.Background(), publish.Options{BuildPath: build, To: New(os.Getenv(envTree)), Type: "release"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child publishes in a process of its own, and kills it after the given time, where that is not 0.
func child(t *testing.T, build, tree string, killAt int, after time.Duration) (killed bool) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), envBuild+"="+build, envTree+"="+tree, envKillAt+"="+strconv.Itoa(killAt))
	var said strings.Builder
	c.Stderr = &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		timer := time.AfterFunc(after, func() { c.Process.Kill() })
		defer timer.Stop()
	}
	err = c.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == -1 {
		return true
	}
	if err != nil {
		t.Fatalf("the child failed: %v\n%s", err, said.String())
	}
	return false
}

// visible is the listing of a tree without what begins with a dot.
func visible(t *testing.T, tree string) []string {
	t.Helper()
	return slices.DeleteFunc(listing(t, tree, false), func(line string) bool { return strings.HasPrefix(line, ".") && !strings.HasPrefix(line, ". ") })
}

// scene is a tree with one version, and a build to publish into it.
type scene struct {
	t             *testing.T
	build, base   string // what to publish, and the tree as it was before
	before, after []string
}

func newScene(t *testing.T, version string, size int64) *scene {
	s := &scene{t: t, build: makeBuild(t, cell{"nocloud", "amd64", version}, size, 2), base: filepath.Join(t.TempDir(), "base")}
	publishTo(t, makeBuild(t, trixie, 1<<20, 1), s.base, publish.Options{})
	s.before = visible(t, s.base)
	tree := s.tree()
	publishTo(t, s.build, tree, publish.Options{})
	s.after = visible(t, tree)
	return s
}

// tree returns a fresh copy of the tree as it was before.
func (s *scene) tree() string {
	tree := filepath.Join(s.t.TempDir(), "public")
	run(s.t, "", "cp", "-a", s.base, tree)
	return tree
}

// judge demands that nobody sees half a publication in a tree whose publisher was killed, and that the next run makes it whole.
func (s *scene) judge(tree, when string) {
	s.t.Helper()
	got := visible(s.t, tree)
	if !slices.Equal(got, s.before) && !slices.Equal(got, s.after) && !onlyLatestIsOld(got, s.before, s.after) {
		s.t.Errorf("%s: the tree is neither as before nor as after:\n%s", when, strings.Join(got, "\n"))
	}
	publishTo(s.t, s.build, tree, publish.Options{})
	if got := listing(s.t, tree, false); !slices.Equal(got, s.after) {
		s.t.Errorf("%s: after the next run the tree is not that of an uncut run:\n%s", when, strings.Join(got, "\n"))
	}
}

// onlyLatestIsOld allows the moment between a complete new version and the swap of "latest", when everything but what "latest"
// shows is as after.
func onlyLatestIsOld(got, before, after []string) bool {
	images, shown := split(got)
	imagesAfter, shownAfter := split(after)
	_, shownBefore := split(before)
	if !slices.Equal(images, imagesAfter) {
		return false
	}
	for _, line := range shown {
		if !slices.Contains(shownBefore, line) && !slices.Contains(shownAfter, line) {
			return false
		}
	}
	return true
}

// split tells what belongs to "latest" from the rest of a listing.
func split(lines []string) (images, shown []string) {
	for _, line := range lines {
		if strings.Contains(line, "/latest ") || strings.Contains(line, "/unversioned") {
			shown = append(shown, line)
		} else {
			images = append(images, line)
		}
	}
	return images, shown
}

func TestKilledBetweenAnyTwoChanges(t *testing.T) {
	for _, row := range []struct{ summary, version string }{
		{"a further cell of the same version", trixie.version},
		{"a new version", "20260815-1"},
		{"an older version, for which latest gains a cell", "20260813-1"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			s := newScene(t, row.version, 1<<20)
			for at := 1; ; at++ {
				tree := s.tree()
				if !child(t, s.build, tree, at, 0) {
					if at < 3 {
						t.Errorf("only %d places to be killed at", at-1)
					}
					break
				}
				s.judge(tree, fmt.Sprintf("killed at change %d", at))
			}
		})
	}
}

func TestKilledAtAnyTime(t *testing.T) {
	s := newScene(t, "20260815-1", 8<<20)
	began := time.Now()
	child(t, s.build, s.tree(), 0, 0)
	whole := time.Since(began)
	n := 4
	if testing.Short() {
		n = 2
	}
	for i := range n {
		after := time.Duration(rand.Float64()*float64(whole)) + time.Millisecond
		tree := s.tree()
		child(t, s.build, tree, 0, after)
		s.judge(tree, fmt.Sprintf("run %d, killed after %s", i, after))
	}
}
