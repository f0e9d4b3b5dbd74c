package main

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

// Each peer has the password of the Secret or of the file that it names, and
// nobody else's.
func TestReadPasswords(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tor := state.ObjectName{Namespace: "seamark-system", Name: "tor"}
	elsewhere := state.ObjectName{Namespace: "network", Name: "tor"}
	passwords, problems := readPasswords([]state.BGPPeer{
		{Name: "none"},
		{Name: "secret", PasswordSecret: tor},
		{Name: "same", PasswordSecret: tor},
		{Name: "elsewhere", PasswordSecret: elsewhere},
		{Name: "gone", PasswordSecret: state.ObjectName{Namespace: "seamark-system", Name: "gone"}},
		{Name: "unread", PasswordSecret: state.ObjectName{Namespace: "seamark-system", Name: "unread"}},
		{Name: "file", PasswordFile: file("tor", "of the file\n")},
		{Name: "long", PasswordFile: file("long", strings.Repeat("x", 81))},
		{Name: "missing", PasswordFile: filepath.Join(dir, "missing")},
	}, []state.Secret{
		{Name: tor, Password: "first"},
		{Name: elsewhere, Password: "other"},
		{Name: state.ObjectName{Namespace: "seamark-system", Name: "gone"}, Password: "last", Invalid: "is not there"},
		{Name: state.ObjectName{Namespace: "seamark-system", Name: "unread"}, Invalid: "is not there"},
	})
	want := map[string]string{"secret": "first", "same": "first", "elsewhere": "other", "gone": "last", "file": "of the file"}
	if !maps.Equal(passwords, want) {
		t.Errorf("passwords %v, want %v", passwords, want)
	}
	if len(problems) != 2 {
		t.Errorf("problems %v", problems)
	}
}
