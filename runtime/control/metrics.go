package control

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cmgr/cmgr/proto/controlpb"
)

// metricsPath is where the socket answers a GET with the metrics of the manager and of all instances, in the text format of
// OpenMetrics.
const metricsPath = "/metrics"

// openMetrics is the media type of that (OpenMetrics 1.0).
const openMetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8"

// A Metric is a family of measurements, as OpenMetrics has them.
type Metric struct {
	Name string `json:"name"`
	// gauge, counter or info.
	Type    string   `json:"type"`
	Help    string   `json:"help"`
	Samples []Sample `json:"samples"`
}

// A Sample is one of them.
type Sample struct {
	Labels map[string]string `json:"labels"`
	Value  float64           `json:"value"`
}

// Metrics are what v and all say of a manager and of its instances. What is not known of an instance is left out.
func Metrics(v *controlpb.VersionResponse, all []*controlpb.Instance) []Metric {
	states := map[string]float64{}
	for _, s := range []string{"unresolved", "resolved", "started", "stopping", "shutdown"} {
		states[s] = 0
	}
	const component = "cmgr_component_"
	var (
		up       = Metric{component + "up", "gauge", "Whether the component runs.", []Sample{}}
		failed   = Metric{component + "failed", "gauge", "Whether its last run or start did not end well.", []Sample{}}
		gaveUp   = Metric{component + "gave_up", "gauge", "Whether the limit of its restart policy is reached.", []Sample{}}
		restarts = Metric{component + "restarts", "counter", "Restarts by its restart policy.", []Sample{}}
		since    = Metric{component + "start_time_seconds", "gauge", "Since when it runs.", []Sample{}}
		cpu      = Metric{component + "cpu_seconds", "counter", "CPU time since its start, of all its processes.", []Sample{}}
		memory   = Metric{component + "memory_bytes", "gauge", "Memory of all its processes.", []Sample{}}
		procs    = Metric{component + "processes", "gauge", "How many processes it has.", []Sample{}}
	)
	for _, i := range all {
		states[i.GetState()]++
		labels := map[string]string{"moniker": i.GetMoniker()}
		add := func(m *Metric, v float64) { m.Samples = append(m.Samples, Sample{labels, v}) }
		add(&up, truth(i.GetState() == "started"))
		add(&failed, truth(i.GetLastError() != "" || i.GetLastExit() != nil && !i.GetLastExit().GetOk()))
		add(&gaveUp, truth(i.GetGaveUp()))
		add(&restarts, float64(i.GetRestarts()))
		if t := i.GetStartedAt(); t != nil {
			add(&since, seconds(t))
		}
		if u := i.GetUsage(); u != nil {
			if u.CpuSeconds != nil {
				add(&cpu, u.GetCpuSeconds())
			}
			if u.MemoryBytes != nil {
				add(&memory, u.GetMemoryBytes())
			}
			if u.Processes != nil {
				add(&procs, float64(u.GetProcesses()))
			}
		}
	}
	number := Metric{"cmgr_components", "gauge", "Component instances by state.", []Sample{}}
	for _, s := range slices.Sorted(maps.Keys(states)) {
		number.Samples = append(number.Samples, Sample{map[string]string{"state": s}, states[s]})
	}
	return []Metric{
		{"cmgr_manager", "info", "The manager.", []Sample{{map[string]string{
			"version": v.GetVersion(), "name": v.GetManager(), "root": v.GetRootUrl(),
		}, 1}}},
		{"cmgr_manager_start_time_seconds", "gauge", "Since when the manager runs.", []Sample{
			{map[string]string{}, seconds(v.GetStartedAt())},
		}},
		number, up, failed, gaveUp, restarts, since, cpu, memory, procs,
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t *timestamppb.Timestamp) float64 { return float64(t.AsTime().UnixMilli()) / 1000 }

// suffixes are what the names of samples have after those of their families.
var suffixes = map[string]string{"counter": "_total", "info": "_info"}

// MetricsText is all in the text format of OpenMetrics 1.0.
func MetricsText(all []Metric) []byte {
	var b bytes.Buffer
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	for _, m := range all {
		fmt.Fprintf(&b, "# TYPE %s %s\n", m.Name, m.Type)
		for _, unit := range []string{"seconds", "bytes"} {
			if strings.HasSuffix(m.Name, "_"+unit) {
				fmt.Fprintf(&b, "# UNIT %s %s\n", m.Name, unit)
			}
		}
		fmt.Fprintf(&b, "# HELP %s %s\n", m.Name, m.Help)
		for _, s := range m.Samples {
			b.WriteString(m.Name + suffixes[m.Type])
			sep := "{"
			for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
				fmt.Fprintf(&b, `%s%s="%s"`, sep, k, escape.Replace(s.Labels[k]))
				sep = ","
			}
			if len(s.Labels) > 0 {
				b.WriteString("}")
			}
			b.WriteString(" " + strconv.FormatFloat(s.Value, 'f', -1, 64) + "\n")
		}
	}
	b.WriteString("# EOF\n")
	return b.Bytes()
}

// metrics answers metricsPath.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	list, err := s.List(r.Context(), &controlpb.ListRequest{Usage: true})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	v, err := s.Version(r.Context(), &controlpb.VersionRequest{})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", openMetrics)
	_, _ = w.Write(MetricsText(Metrics(v, list.GetInstances()))) // what can fail is telling the peer, who will notice
}
