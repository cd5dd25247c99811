package control

import (
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/proto/controlpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// checkOpenMetrics checks text by the grammar of OpenMetrics 1.0: each family is told of once, before its samples, and no sample stands
// twice.
func checkOpenMetrics(t *testing.T, text string) {
	t.Helper()
	sample := regexp.MustCompile(`^([a-z_]+)(\{[a-z_]+="(?:[^"\\\n]|\\[\\n"])*"(?:,[a-z_]+="(?:[^"\\\n]|\\[\\n"])*")*\})? -?[0-9.]+$`)
	seen, family, suffix := map[string]bool{}, "", ""
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		line, ended := strings.CutSuffix(line, "\n")
		if seen[line] {
			t.Errorf("twice: %s", line)
		}
		seen[line] = true
		words := strings.Fields(line)
		switch m := sample.FindStringSubmatch(line); {
		case i == len(lines)-1 && line == "" && lines[i-1] == "# EOF\n":
		case !ended:
			t.Errorf("unfinished: %q", line)
		case line == "# EOF" && i == len(lines)-2:
		case len(words) == 4 && strings.HasPrefix(line, "# TYPE "):
			family, suffix = words[2], suffixes[words[3]]
			if seen[family] {
				t.Errorf("again: %s", line)
			}
			seen[family] = true
		case len(words) > 3 && words[0] == "#" && (words[1] == "HELP" || words[1] == "UNIT") && words[2] == family:
		case m == nil || m[1] != family+suffix:
			t.Errorf("in %s: %q", family, line)
		}
	}
}

func TestMetrics(t *testing.T) {
	c, _, _ := serve(t, shop(t))
	if _, err := c.Start(bounded(t), &controlpb.InstanceRequest{Query: "/core/net"}); err != nil {
		t.Fatal(err)
	}
	r, err := c.http.Get("http://cmgr" + metricsPath)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != 200 || r.Header.Get("Content-Type") != openMetrics {
		t.Errorf("%s, %s, %v", r.Status, r.Header.Get("Content-Type"), err)
	}
	checkOpenMetrics(t, string(b))
	for _, want := range []string{
		`cmgr_manager_info{name="test",root="root.cml",version="v1"} 1`, `cmgr_component_up{moniker="/core/net"} 1`,
		`cmgr_component_up{moniker="/core"} 0`, `cmgr_component_restarts_total{moniker="/core"} 0`, `cmgr_components{state="started"} 1`,
		"# UNIT cmgr_component_memory_bytes bytes",
	} {
		if !strings.Contains(string(b), want+"\n") {
			t.Errorf("there is no %s in\n%s", want, b)
		}
	}
}

func TestMetricsText(t *testing.T) {
	at := &timestamppb.Timestamp{Seconds: 1_700_000_000, Nanos: 250e6}
	got := string(MetricsText(Metrics(&controlpb.VersionResponse{Version: "a\"b\\c\n", StartedAt: at}, []*controlpb.Instance{
		{
			Moniker: "/a", State: "started", StartedAt: at, Restarts: 3, GaveUp: true, LastExit: &controlpb.Exit{},
			Usage: &controlpb.Usage{CpuSeconds: new(1.5), MemoryBytes: new(float64(1 << 40)), Processes: new(int32(2))},
		},
		{Moniker: "/b", State: "resolved", LastExit: &controlpb.Exit{Ok: true}},
	})))
	checkOpenMetrics(t, got)
	for _, want := range []string{
		`cmgr_manager_info{name="",root="",version="a\"b\\c\n"} 1`, `cmgr_manager_start_time_seconds 1700000000.25`,
		`cmgr_component_start_time_seconds{moniker="/a"} 1700000000.25`, `cmgr_component_memory_bytes{moniker="/a"} 1099511627776`,
		`cmgr_component_cpu_seconds_total{moniker="/a"} 1.5`, `cmgr_component_processes{moniker="/a"} 2`,
		`cmgr_component_failed{moniker="/a"} 1`, `cmgr_component_failed{moniker="/b"} 0`, `cmgr_component_gave_up{moniker="/a"} 1`,
		`cmgr_component_restarts_total{moniker="/a"} 3`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("there is no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, `cpu_seconds_total{moniker="/b"}`) {
		t.Error("CPU of what does not run")
	}
}
