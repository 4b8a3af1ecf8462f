package executor

import (
	"fmt"
	"strings"
	"testing"
)

// A kernel says of what it dies, and then shows its stack.
func TestLastWords(t *testing.T) {
	text := "[    1.0] an earlier boot\r\n" +
		"[    4.4] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\r\n" +
		"[    4.5] \x1b[31mKernel panic - not syncing\x1b[0m: Fatal exception in interrupt\r\n"
	var stack strings.Builder
	for i := range 20 {
		fmt.Fprintf(&stack, "[    4.6]  frame_%d+0x1/0x2\r\n", i)
	}
	lines := strings.Split(lastWords(text+stack.String()), "\n")
	if len(lines) != 17 || !strings.Contains(lines[0], "Oops: int3") || !strings.HasPrefix(lines[1], "  [    4.5] Kernel panic - not syncing: Fatal") || !strings.Contains(lines[2], "frame_5+") {
		t.Errorf("got %d lines:\n%s", len(lines), strings.Join(lines, "\n"))
	}
	if short := lastWords(text); strings.Count(short, "Kernel panic") != 1 || strings.Count(short, "\n") != 2 {
		t.Errorf("a short console became:\n%s", short)
	}
	if lastWords("\r\n") != "" {
		t.Error("an empty console has last words")
	}
}
