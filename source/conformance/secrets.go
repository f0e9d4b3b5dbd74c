package conformance

import (
	"fmt"
	"strings"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// The password of a Secret that a BGPPeer names is known, follows the Secret, and
// outlives it; what is wrong is said of the BGPPeer.
func secrets(s *suite) {
	is := func(what, password, problem string) {
		s.Helper()
		s.wait(what, func(snap state.Snapshot) bool {
			row, _ := s.DB.Secrets.Get(snap, "seamark-system/tor")
			var said []string
			for p := range s.DB.SourceProblems.All(snap) {
				said = append(said, p.String())
			}
			all := strings.Join(said, "; ")
			return row.Password == password && strings.Contains(all, problem) && (problem != "" || all == "")
		})
	}
	s.create(`{apiVersion: seamark.dev/v1alpha1, kind: BGPPeer, metadata: {name: router}, spec: {peerAddress: 192.168.10.200, peerASN: 65000, passwordSecretRef: {name: tor}}}`)
	is("it is not there", "", "bgppeer/router: spec.passwordSecretRef: Secret seamark-system/tor is not there")
	secret := s.create("{apiVersion: v1, kind: Secret, metadata: {name: tor, namespace: seamark-system}, stringData: {password: hidden}}")[0]
	s.create("{apiVersion: v1, kind: Secret, metadata: {name: other, namespace: seamark-system}, stringData: {password: unread}}")
	is("the password", "hidden", "")
	secret.Object["data"] = map[string]any{"password": "bmV3"}
	if _, err := s.writer().Update(s.Context(), secret); err != nil {
		s.Fatal(err)
	}
	is("another password", "new", "")
	if err := s.writer().Delete(s.Context(), source.KindSecret(), "seamark-system", "tor"); err != nil {
		s.Fatal(err)
	}
	is("the Secret is gone", "new", "Secret seamark-system/tor is not there")
	objs, err := s.Source.Objects().List(s.Context(), source.KindSecret(), "seamark-system")
	if err == nil && (len(objs) != 1 || fmt.Sprint(objs[0].Object["data"]) != "map[password:<6 bytes>]") {
		s.Errorf("%d Secrets are shown, the first as %v", len(objs), objs[0].Object)
	}
	if err := s.writer().Delete(s.Context(), source.KindBGPPeer(), "", "router"); err != nil {
		s.Fatal(err)
	}
	is("it is forgotten", "", "")
}
