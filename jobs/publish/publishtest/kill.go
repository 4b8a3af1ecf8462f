package publishtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// Apartable is a Counter that a Publisher in another process can reach.
type Apartable interface {
	Counter
	// Address is where it is, and At has its Publishers use the cloud at another's address.
	Address() string
	At(address string)
	// WhenPieces calls do once it has so many pieces.
	WhenPieces(n int, do func())
}

const envKilled = "DEBCLOUD_TEST_KILLED"

// Killed tries what SIGKILL in an upload costs: what was on its way, and twice what the Publisher sends between two marks. The process that is killed is this
// program once more, up to this call of the same test. p's clouds are Apartable.
func Killed(t *testing.T, p Provider) {
	t.Helper()
	if args := strings.Split(os.Getenv(envKilled), "\n"); len(args) == 3 {
		publishUntilKilled(t, p, args[0], args[1], args[2])
	}
	slack := 2 * (p.Marks + p.AtOnce) // while one mark is written, the blocks of the next come
	build := Build(t, Options{Vendor: p.Vendor, Version: "20260815-1", Seed: 2, Size: p.Piece * int64(3*slack/2), Every: p.Piece})
	s := newScene(t, p)
	s.demand("uncut", try{build: build})
	want, whole := s.dump(), s.pieces()

	s = newScene(t, p)
	cloud := s.cloud.(Apartable)
	reached := make(chan struct{})
	cloud.WhenPieces(whole*3/4, func() { close(reached) })
	runUntil(t, reached, build, s.journal, cloud.Address())
	s.demand("resumed", try{build: build})
	s.demandDump("killed and resumed", want)
	if sent := s.pieces(); sent > whole+slack {
		t.Errorf("of %d pieces, %d of which had come, %d were sent; no more than %d more should be", whole, whole*3/4, sent, slack)
	}
}

func publishUntilKilled(t *testing.T, p Provider, build, path, address string) {
	cloud := p.Cloud(t)
	cloud.(Apartable).At(address)
	j, err := journal.Open(context.Background(), path, journal.Wait)
	if err == nil {
		_, err = publish.Publish(context.Background(), publish.Options{BuildPath: build, To: cloud.Publisher(t, &Line{}, j), Type: "daily"})
	}
	fmt.Println("nobody killed this publisher:", err)
	os.Exit(1)
}

// runUntil runs the process, and kills it when the channel is closed.
func runUntil(t *testing.T, now <-chan struct{}, args ...string) {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	c.Env = append(os.Environ(), envKilled+"="+strings.Join(args, "\n"))
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = c.Wait() // ProcessState tells
		close(ended)
	}()
	select {
	case <-now:
		_ = c.Process.Kill()
	case <-ended:
	}
	<-ended
	if !c.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		t.Fatalf("the publisher ended before it was killed: %s", said.String())
	}
}
