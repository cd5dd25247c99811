package host

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/cmgr/cmgr/capabilities/framework"
	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/proto/componentpb"
)

// TestProtocolPage: PROTOCOL.md names every protocol, method, message and field.
func TestProtocolPage(t *testing.T) {
	b, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.Join(strings.Fields(string(b)), " ")
	for p, methods := range protocols {
		if !strings.Contains(page, "`"+p+"`") {
			t.Errorf("protocol %s is missing", p)
		}
		if restricted := strings.Contains(page, "`"+p+"` (restricted)"); restricted != framework.Restricted(p) {
			t.Errorf("%s: restricted is %v", p, restricted)
		}
		for m := range methods {
			if !strings.Contains(page, "| `"+m+"` |") {
				t.Errorf("%s.%s is missing", p, m)
			}
		}
	}
	for _, e := range framework.Events() {
		if !strings.Contains(page, "`"+e+"`") {
			t.Errorf("event %s is missing", e)
		}
	}
	all := componentpb.File_proto_component_v1_component_proto.Messages()
	for i := range all.Len() {
		m := all.Get(i)
		if m.Name() == "Resolve" || m.Name() == "Resolved" {
			continue // they are in runtime/resolver/PROTOCOL.md
		}
		_, text, ok := strings.Cut(page, "**"+string(m.Name())+"**")
		text, _, _ = strings.Cut(text, "**")
		if !ok {
			t.Errorf("message %s is missing", m.Name())
		}
		for f := range m.Fields().Len() {
			d := m.Fields().Get(f)
			if want := fmt.Sprintf("· %d %s (", d.Number(), d.Name()); !strings.Contains(text, want) || (d.Cardinality() == protoreflect.Repeated) != repeated(text, want) {
				t.Errorf("%s: %q is missing", m.Name(), want)
			}
		}
	}
}

func repeated(text, field string) bool {
	_, rest, _ := strings.Cut(text, field)
	rest, _, _ = strings.Cut(rest, ")")
	kind, _, _ := strings.Cut(rest, ":")
	return strings.Contains(kind, "repeated")
}

// TestTranscript: the manager says what PROTOCOL.md has of it.
func TestTranscript(t *testing.T) {
	w := newWorld(t)
	w.must(w.realm().CreateChild(t.Context(), "jobs", framework.Child{Name: "a", URL: "mem:///worker"}))
	b, err := os.ReadFile("PROTOCOL.md")
	w.must(err)
	_, text, _ := strings.Cut(string(b), "```transcript\n")
	text, _, _ = strings.Cut(text, "```")
	var packets [][]string // who, and the bytes
	for line := range strings.Lines(text) {
		line, _, _ := strings.Cut(line, "#")
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "C" || words[0] == "M":
			packets = append(packets, words)
		default:
			packets[len(packets)-1] = append(packets[len(packets)-1], words...)
		}
	}
	if len(packets) != 9 {
		t.Fatalf("%d packets", len(packets))
	}
	c := w.dial("/core", "/core", framework.Realm)
	c.SetDeadline(time.Now().Add(bound))
	for n, p := range packets {
		if p[0] == "C" {
			b, err := hex.DecodeString(strings.Join(p[1:], ""))
			w.must(err)
			_, err = c.Write(b)
			w.must(err)
			continue
		}
		buf := make([]byte, rpc.MaxPacket)
		got, err := c.Read(buf)
		w.must(err)
		same := got == len(p)-1
		for i := 0; same && i < got; i++ {
			same = p[i+1] == "xx" || p[i+1] == fmt.Sprintf("%02x", buf[i])
		}
		if !same {
			t.Fatalf("packet %d is % x, PROTOCOL.md has %s", n+1, buf[:got], strings.Join(p[1:], " "))
		}
	}
}
