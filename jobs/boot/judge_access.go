package boot

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

func judgeSSH(o *observation) verdict {
	switch {
	case o.hostKey == "" && o.fault != nil:
		return failed("%v", o.fault)
	case o.hostKey == "":
		return failed("SSH was never reached")
	case !printedFingerprints(o.console)[o.hostKey]:
		return failed("the host key %s is none of those on the console", o.hostKey)
	}
	return passed("first command %.1f s after power-on; host key %s", o.marks.after(o.marks.ssh), o.hostKey)
}

// judgeDefaultUser needs no probe of sudo: every probe ran through it, without a password.
func judgeDefaultUser(o *observation) verdict {
	p := o.probes["default_user"]
	if p.exit != 0 {
		return failed("%s", p.out)
	}
	lines := strings.Split(p.out, "\n")
	groups := strings.Fields(lines[len(lines)-1])
	if !slices.Contains(groups, "sudo") {
		return failed("user %s is not in group sudo: %s", defaultUser, p.out)
	}
	return passed("%s; sudo asks for no password", firstLine(p.out))
}

func judgePasswords(o *observation) verdict {
	var open []string
	root := "missing"
	for line := range strings.SplitSeq(o.out("passwords"), "\n") {
		user, state, _ := strings.Cut(line, " ")
		if user == "root" {
			root = state
		}
		if state != "locked" {
			open = append(open, fmt.Sprintf("%s: %s", user, state))
		}
	}
	if root != "locked" || len(open) > 0 {
		return failed("root's password is %s; not locked: %s", root, strings.Join(open, ", "))
	}
	wrong := wrongSettings(o.out("sshd"), map[string][]string{
		"passwordauthentication":       {"no"},
		"kbdinteractiveauthentication": {"no"},
		"permitemptypasswords":         {"no"},
		"permitrootlogin":              {"no", "without-password", "prohibit-password", "forced-commands-only"},
	})
	if len(wrong) > 0 {
		return failed("sshd -T: %s", strings.Join(wrong, ", "))
	}
	return passed("every password is locked; sshd takes no password and no interactive answer")
}

// wrongSettings returns the settings in "sshd -T" whose value is none of those wanted, and those that are missing.
func wrongSettings(output string, want map[string][]string) []string {
	got := map[string]string{}
	for line := range strings.SplitSeq(output, "\n") {
		key, value, _ := strings.Cut(line, " ")
		got[strings.ToLower(key)] = value
	}
	var wrong []string
	for key, values := range want {
		if !slices.Contains(values, got[key]) {
			wrong = append(wrong, fmt.Sprintf("%s is %q", key, got[key]))
		}
	}
	slices.Sort(wrong)
	return wrong
}

func judgeHostKeys(o *observation) verdict {
	own, err := publicKeys(o.out("host_keys"))
	if err != nil {
		return failed("%v", err)
	}
	printed := printedFingerprints(o.console)
	for _, fingerprint := range own {
		if !printed[fingerprint] {
			return failed("host key %s was never printed on the console, where cloud-init prints the keys that it makes", fingerprint)
		}
	}
	if o.peer == nil || o.peer.out("host_keys") == "" {
		return passed("%s; there is no other VM to compare with", strings.Join(own, ", "))
	}
	others, _ := publicKeys(o.peer.out("host_keys"))
	for _, fingerprint := range own {
		if slices.Contains(others, fingerprint) {
			return failed("the %s VM has the same host key %s: it was baked into the image", o.peer.firmware, fingerprint)
		}
	}
	return passed("%s, none of them in the %s VM", strings.Join(own, ", "), o.peer.firmware)
}

// publicKeys returns the fingerprints of keys in the format of authorized_keys, one a line.
func publicKeys(text string) ([]string, error) {
	var found []string
	rest := []byte(text)
	for len(strings.TrimSpace(string(rest))) > 0 {
		key, _, _, next, err := ssh.ParseAuthorizedKey(rest)
		if err != nil {
			return nil, fmt.Errorf("%q holds no SSH public keys: %w", text, err)
		}
		found, rest = append(found, ssh.FingerprintSHA256(key)), next
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("the guest has no SSH host keys")
	}
	return found, nil
}
