package source_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

const secretPeer = `{apiVersion: seamark.dev/v1alpha1, kind: BGPPeer, metadata: {name: router}, spec: {peerAddress: 192.168.10.200, peerASN: 65000,
	passwordSecretRef: {name: %s}}}`

func secretNamed(name, data string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: Secret, metadata: {name: %s, namespace: seamark-system}, data: {%s}}", name, data)
}

// A BGPPeer says what is wrong with the Secret that it names; the last password
// that was right stays in force until another is.
func TestSecrets(t *testing.T) {
	s := newStore(t)
	removed := func(kind source.Kind, name string) {
		s.writer.Update(func(tx *state.Tx) { s.tables.Remove(tx, kind, name) })
	}
	is := func(what, password, problem string) {
		t.Helper()
		row, _ := s.db.Secrets.Get(s.db.Snapshot(), "seamark-system/tor")
		if row.Password != password {
			t.Errorf("%s: password %q, want %q", what, row.Password, password)
		}
		problems := strings.Join(s.problems(), "; ")
		if problem == "" && problems != "" || !strings.Contains(problems, problem) || strings.Contains(problems, "wall") || strings.Contains(problems, "hidden") {
			t.Errorf("%s: problems %q, want %q", what, problems, problem)
		}
		if data, err := json.Marshal(row); err != nil || strings.Contains(string(data), "hidden") {
			t.Errorf("%s: the row is printed as %s (%v)", what, data, err)
		}
	}
	s.put(fmt.Sprintf(secretPeer, "tor"))
	is("nothing is known of Secrets yet", "", "")
	s.writer.Update(func(tx *state.Tx) { s.tables.Replace(tx, source.KindSecret(), nil) })
	is("there are none", "", `bgppeer/router: spec.passwordSecretRef: Secret seamark-system/tor is not there: sessions that have its last password keep it, and no others begin; create it, with the key "password"`)
	s.put(secretNamed("tor", "secret: aGlkZGVu")) // hidden
	is("another key", "", `Secret seamark-system/tor has no key "password"`)
	s.put(secretNamed("tor", `password: ""`))
	is("an empty one", "", "holds a password of 0 bytes")
	s.put(secretNamed("tor", "password: aGlkZGVuCg==")) // hidden\n
	is("right", "hidden", "")
	s.put(secretNamed("tor", fmt.Sprintf("password: %s", strings.Repeat("d2Fs", 27)))) // 81 bytes
	is("too long", "hidden", "holds a password of 81 bytes: sessions that have its last password keep it, and no others begin; use one of 1 to 80 bytes")
	s.put(secretNamed("tor", "password: aGlkZGVuMg==")) // hidden2
	is("another", "hidden2", "")
	removed(source.KindSecret(), "seamark-system/tor")
	is("gone", "hidden2", "Secret seamark-system/tor is not there")
	s.writer.Update(func(tx *state.Tx) {
		s.tables.SecretUnreadable(tx, state.ObjectName{Namespace: "seamark-system", Name: "tor"}, "the daemon may not", "let it")
	})
	is("not to be read", "hidden2", "Secret seamark-system/tor cannot be read: the daemon may not: sessions that have its last password keep it, and no others begin; let it")

	s.put(fmt.Sprintf(secretPeer, "other"))
	is("another Secret is named", "", "Secret seamark-system/other is not there")
	s.put(secretNamed("tor", "password: aGlkZGVu"))
	s.put(secretNamed("empty", ""))
	removed(source.KindBGPPeer(), "router")
	is("none is named", "hidden", "")
	s.put(fmt.Sprintf(secretPeer, "empty"))
	is("one that was there before it was named", "hidden", `Secret seamark-system/empty has no key "password"`)
	s.put(fmt.Sprintf(secretPeer, "'../tor'"))
	is("no name", "hidden", `"seamark-system/../tor" is no name that a Secret can have`)
	if named := source.NamedSecrets(s.db, s.db.Snapshot()); len(named) > 0 {
		t.Errorf("it would be asked for %v", named)
	}
}

// What a Secret holds is checked and stored, and told to nobody.
func TestRedacted(t *testing.T) {
	manifests, err := source.ReadManifests("s.yaml", strings.NewReader(`
apiVersion: v1
kind: Secret
metadata:
  name: tor
  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"stringData":{"password":"hidden"}}', team: net}
data: {password: b2xk, none: null}
stringData: {password: hidden}
`))
	if err != nil {
		t.Fatal(err)
	}
	secret := manifests[0].Object
	if got := fmt.Sprintln(secret.Object["data"], secret.Object["stringData"], secret.Object["type"]); got != "map[none: password:aGlkZGVu] <nil> Opaque\n" {
		t.Errorf("stored as %s", got)
	}
	shown := source.Redacted(secret)
	if got := fmt.Sprint(shown.Object); strings.Contains(got, "hidden") || strings.Contains(got, "aGlkZGVu") || !strings.Contains(got, "password:<6 bytes>") ||
		!strings.Contains(got, "team:net") {
		t.Errorf("shown as %s", got)
	}
	if problems := source.Admit(shown); len(problems) != 2 || !strings.Contains(problems.Error(), "data[password]: is not base64") {
		t.Errorf("what was shown is written back: %v", problems)
	}
	if secret.Object["data"].(map[string]any)["password"] != "aGlkZGVu" {
		t.Error("the object itself is changed")
	}
	secret.Object["immutable"] = true
	changed := secret.DeepCopy()
	if problems := source.AdmitChange(secret, changed); len(problems) > 0 {
		t.Errorf("not changed, and refused: %v", problems)
	}
	changed.Object["data"] = nil
	if problems := source.AdmitChange(secret, changed); len(problems) != 1 || strings.Contains(problems.Error(), "aGlk") {
		t.Errorf("an immutable one is changed: %v", problems)
	}
}
