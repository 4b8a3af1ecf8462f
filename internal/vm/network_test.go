package vm

import (
	"strings"
	"testing"
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
