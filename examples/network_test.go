package examples

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// TestNetwork finds that who is routed the network serves on it, and that who isn't has none.
func TestNetwork(t *testing.T) {
	needs.Tool(t, "python3")
	if os.Geteuid() != 0 {
		needs.Userns(t)
	}
	m := newManager(t, "network/root.cml")
	m.start()
	address := regexp.MustCompile(`http://\S+`)
	m.until("the server", func() bool { return address.MatchString(m.do("logs", "/open")) })
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: bound}
	r, err := client.Get(address.FindString(m.do("logs", "/open")))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	if string(body) != "hello from /open\n" || err != nil {
		t.Errorf("it serves %q, %v", body, err)
	}
	m.until("the other's end", func() bool { return strings.Contains(m.do("logs", "/closed"), "2 cannot connect") })
	const want = "1 cannot listen: Address family not supported by protocol\n2 cannot connect: Address family not supported by protocol\n"
	if got := m.do("logs", "/closed"); got != want {
		t.Errorf("without a network: %s", got)
	}
	m.stop()
}
