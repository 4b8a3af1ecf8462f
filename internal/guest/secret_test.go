package guest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestSecret(t *testing.T) {
	s := NewSecret()
	if s == NewSecret() {
		t.Fatal("two secrets are the same")
	}
	if got, ok := ParseOEMString(s.OEMString()); !ok || got != s {
		t.Errorf("%v, %v", got, ok)
	}
	for _, text := range []string{"", "org.debian.debcloud.secret:", "org.debian.debcloud.secret:AAAA", "other:" + s.OEMString(), s.OEMString() + "A"} {
		if _, ok := ParseOEMString(text); ok {
			t.Errorf("%q is taken for a secret", text)
		}
	}
	text, err := json.Marshal(map[string]Secret{"secret": s})
	var back map[string]Secret
	if err == nil {
		err = json.Unmarshal(text, &back)
	}
	if err != nil || back["secret"] != s {
		t.Errorf("%s, %v", text, err)
	}
	encoded, _ := s.MarshalText()
	if shown := fmt.Sprintf("%v %s", s, s); strings.Contains(shown, string(encoded)) || strings.Contains(shown, "[") {
		t.Errorf("a log shows it: %s", shown)
	}
	if string(s.HostKey().PublicKey().Marshal()) == string(s.ClientKey().PublicKey().Marshal()) {
		t.Error("both sides have the same key")
	}
}
