package progress_test

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/progress"
)

// TestPlainLines shows what a log file gets: a line a step, no bars, nothing twice.
func TestPlainLines(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d := progress.New(w)
	ctx := progress.NewContext(t.Context(), d)
	task := progress.Start(ctx, "FAI", 10, false)
	task.Say("installing %s", "bash")
	task.Say("installing %s", "bash")
	task.Add(10)
	task.Done()
	d.Close()
	w.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 3 || lines[0] != "FAI: started" || lines[1] != "FAI: installing bash" || !strings.HasPrefix(lines[2], "FAI: done in ") {
		t.Errorf("got %q", lines)
	}
}

// TestSilent makes sure that packages can work without a Display.
func TestSilent(t *testing.T) {
	task := progress.Start(context.Background(), "x", 1, true)
	task.Say("y")
	task.Add(1)
	task.Abort()
	task.Done()
}
