package vm

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestFilter(t *testing.T) {
	text, err := filterXML("jobs", "0123")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"srcmacaddr=\"$MAC\"", "arpsrcipaddr=\"$IP\"", "srcipaddr=\"$IP\"", "dstipaddr=\"$HOST\"", "dstipaddr=\"169.254.0.0\"", "<uuid>0123</uuid>"} {
		if !strings.Contains(text, part) {
			t.Errorf("the filter lacks %s: %s", part, text)
		}
	}
}

// TestFilterThatAnotherDefines lets another process define the filter between our look and our definition.
func TestFilterThatAnotherDefines(t *testing.T) {
	o := nodeOptions(startPrivate(t, true))
	n, other := connect(t, o), connect(t, o)
	raced := false
	describe := func(name, uuid string) (string, error) {
		if !raced {
			raced = true
			if err := other.conn.ensureFilter(context.WithoutCancel(t.Context()), name, filterXML); err != nil {
				return "", err
			}
		}
		return filterXML(name, uuid)
	}
	if err := n.conn.ensureFilter(testContext(t, time.Minute), "jobs", describe); err != nil {
		t.Error(err)
	}
}
