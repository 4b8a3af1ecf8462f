package process

import (
	"os"
	"testing"
)

func TestRuns(t *testing.T) {
	me := This()
	if !me.Runs() {
		t.Error("this process does not run:", me)
	}
	for _, row := range []struct {
		summary string
		p       ID
	}{
		{"the number was given to another", ID{PID: me.PID, Start: me.Start - 1, Boot: me.Boot}},
		{"another boot", ID{PID: me.PID, Start: me.Start, Boot: "before"}},
		{"no such process", ID{PID: 1 << 30, Start: 1, Boot: me.Boot}},
		{"nothing known", ID{}},
	} {
		if row.p.Runs() {
			t.Errorf("%s: runs", row.summary)
		}
	}
	if Parent(me.PID) != os.Getppid() {
		t.Errorf("parent %d, not %d", Parent(me.PID), os.Getppid())
	}
}
