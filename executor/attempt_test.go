package executor

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/process"
)

const envOrphan = "DEBCLOUD_TEST_ORPHAN"

// TestRunnerOfOrphan: who was killed before its driver could ask is no Runner that lives for ever, as init does.
func TestRunnerOfOrphan(t *testing.T) {
	if os.Getenv(envOrphan) != "" {
		for range 500 {
			if os.Getppid() == 1 {
				fmt.Printf("runs: %v\n", runner().Runs())
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		return
	}
	// The shell ends at once; the output ends with the process that it leaves.
	c := exec.Command("sh", "-c", `"$0" -test.run '^TestRunnerOfOrphan$' &`, os.Args[0])
	c.Env = append(os.Environ(), envOrphan+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as Runner's calls have
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "runs: ") {
		t.Skip("orphans have another parent than process 1 here")
	}
	if !strings.Contains(string(out), "runs: false") {
		t.Errorf("process 1 is taken for Runner: %s", out)
	}
	if mine := runner(); !mine.Runs() || mine == (process.ID{}) {
		t.Errorf("the Runner of a process with a parent is %+v", mine)
	}
}
