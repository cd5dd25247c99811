package verify

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
)

// SARIF gathers what is not OK for tools of code review: SARIF 2.1.0
// (https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html), one run. A result stands at the line where its route
// ends, and of a manifest that does not resolve at each line that is wrong; the lines on the way, and includes, are related
// locations.
type SARIF struct {
	// Dir is the directory, absolute, that files below it are named relative to.
	Dir     string
	Version string // of the tool

	results []sarifResult
	told    map[manifest.Pos]map[string]bool // findings of manifests that several instances have
}

type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool               sarifTool                `json:"tool"`
	ColumnKind         string                   `json:"columnKind"`
	OriginalURIBaseIDs map[string]sarifArtifact `json:"originalUriBaseIds"`
	Results            []sarifResult            `json:"results"`
}

type sarifTool struct {
	Driver sarifDriver `json:"driver"`
}

type sarifDriver struct {
	Name    string      `json:"name"`
	Version string      `json:"version,omitempty"`
	Rules   []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID               string    `json:"id"`
	ShortDescription sarifText `json:"shortDescription"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifResult struct {
	RuleID              string             `json:"ruleId"`
	RuleIndex           int                `json:"ruleIndex"`
	Level               string             `json:"level"`
	Message             sarifText          `json:"message"`
	Locations           []sarifLocation    `json:"locations"`
	RelatedLocations    []sarifLocation    `json:"relatedLocations,omitempty"`
	PartialFingerprints map[string]string  `json:"partialFingerprints"`
	Suppressions        []sarifSuppression `json:"suppressions,omitempty"`
}

type sarifSuppression struct {
	Kind          string `json:"kind"`
	Justification string `json:"justification"`
}

type sarifLocation struct {
	Physical *sarifPhysical `json:"physicalLocation,omitempty"`
	Logical  []sarifLogical `json:"logicalLocations,omitempty"`
	Message  *sarifText     `json:"message,omitempty"`
}

type sarifPhysical struct {
	Artifact sarifArtifact `json:"artifactLocation"`
	Region   *sarifRegion  `json:"region,omitempty"`
}

type sarifArtifact struct {
	URI       string `json:"uri"`
	URIBaseID string `json:"uriBaseId,omitempty"`
}

type sarifRegion struct {
	StartLine   int32 `json:"startLine"`
	StartColumn int32 `json:"startColumn,omitempty"`
}

type sarifLogical struct {
	FullyQualifiedName string `json:"fullyQualifiedName"`
	Kind               string `json:"kind"`
}

const sarifBase = "SRCROOT"

// sarifRules are the rules of verify itself; those of manifests are called as `cmgr check` calls them.
var sarifRules = map[string]string{
	"route-internal": "a route cannot be followed", "route-not_found": "a capability was not routed to who needs it",
	"route-invalid": "a route is a cycle, or too long", "route-denied": "rights or policy forbid a route",
	"route-unavailable": "a route leads to a manifest that cannot be read", "route-precondition": "a route is not to be had now",
	"partial-service": "a part of an aggregated service is missing", "unresolved": "a component's manifest cannot be resolved",
	"program-refused": "the runner refuses a program",
	"stale-allowance": "an entry of the allowlist allows nothing that fails",
}

// Add adds a result; one that is OK is not told.
func (s *SARIF) Add(r *Result) {
	if r.Severity == OK {
		return
	}
	e := r.Err
	out := sarifResult{
		RuleID: "route-" + e.Why.String(), Level: r.Severity.String(), Message: sarifText{r.Subject() + ": " + Cause(e)},
		PartialFingerprints: map[string]string{"cmgr/v1": fingerprint(string(r.Target), r.Decl, r.Kind.String(), r.Name, r.To)},
	}
	switch {
	case r.Decl == "child":
		out.RuleID = "unresolved"
	case r.Decl == "program" && e.Why == capabilities.Invalid && e.Err != nil:
		out.RuleID = "program-refused"
	case r.Route != nil:
		out.RuleID = "partial-service"
	}
	if e.Hint != "" {
		out.Message.Text += "\n" + e.Hint
	}
	if r.Allowed != "" {
		out.Suppressions = []sarifSuppression{{"external", r.Allowed}}
	}
	at := e.Pos
	if !at.IsValid() {
		at = r.Pos
	}
	out.Locations = []sarifLocation{s.location(at, string(r.Target), "")}
	if r.Pos != at {
		out.RelatedLocations = append(out.RelatedLocations, s.location(r.Pos, string(r.Target), r.Decl+" "+r.Name))
	}
	for _, h := range e.Hops {
		if h.Pos.IsValid() && h.Pos != at && h.Pos != r.Pos {
			out.RelatedLocations = append(out.RelatedLocations, s.location(h.Pos, string(h.At), h.Decl+" "+h.Name))
		}
	}
	s.results = append(s.results, out)
	if ds, ok := manifest.AsDiagnostics(e.Err); ok && (r.Decl == "child" || r.Decl == "program") {
		s.AddFindings(ds, r.Allowed)
	}
}

// AddFindings adds what is wrong in a file, once; if it is allowed with the reason.
func (s *SARIF) AddFindings(ds manifest.Diagnostics, allowed string) {
	for _, d := range ds {
		if s.told[d.Pos][d.Message] {
			continue
		}
		if s.told == nil {
			s.told = map[manifest.Pos]map[string]bool{}
		}
		if s.told[d.Pos] == nil {
			s.told[d.Pos] = map[string]bool{}
		}
		s.told[d.Pos][d.Message] = true
		out := sarifResult{
			RuleID: cmp.Or(d.Rule, "manifest"), Level: "error", Message: sarifText{d.Message},
			Locations:           []sarifLocation{s.location(d.Pos, "", "")},
			PartialFingerprints: map[string]string{"cmgr/v1": fingerprint(s.uri(d.Pos.File).URI, d.Rule, d.Message)},
		}
		if d.Warning {
			out.Level = "warning"
		}
		if d.Hint != "" {
			out.Message.Text += "\n" + d.Hint
		}
		if d.IncludedAt.IsValid() {
			out.RelatedLocations = []sarifLocation{s.location(d.IncludedAt, "", "included here")}
		}
		if allowed != "" {
			out.Suppressions = []sarifSuppression{{"external", allowed}}
		}
		s.results = append(s.results, out)
	}
}

// fingerprint stays when lines move.
func fingerprint(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:16])
}

func (s *SARIF) location(p manifest.Pos, moniker, message string) sarifLocation {
	var l sarifLocation
	if p.IsValid() {
		l.Physical = &sarifPhysical{Artifact: s.uri(p.File)}
		if p.Line > 0 {
			l.Physical.Region = &sarifRegion{p.Line, p.Col}
		}
	}
	if moniker != "" {
		l.Logical = []sarifLogical{{moniker, "module"}}
	}
	if message != "" {
		l.Message = &sarifText{message}
	}
	return l
}

func (s *SARIF) uri(file string) sarifArtifact {
	if abs, err := filepath.Abs(file); err == nil {
		file = abs
	}
	if rel, err := filepath.Rel(s.Dir, file); err == nil && filepath.IsLocal(rel) {
		return sarifArtifact{(&url.URL{Path: rel}).String(), sarifBase}
	}
	return sarifArtifact{URI: (&url.URL{Scheme: "file", Path: file}).String()}
}

// Write writes what was gathered.
func (s *SARIF) Write(w io.Writer) error {
	ids := map[string]int{}
	for _, r := range s.results {
		ids[r.RuleID] = 0
	}
	driver := sarifDriver{Name: "cmgr", Version: s.Version, Rules: []sarifRule{}}
	for id := range ids {
		driver.Rules = append(driver.Rules, sarifRule{id, sarifText{cmp.Or(sarifRules[id], "a manifest breaks the rule "+id)}})
	}
	slices.SortFunc(driver.Rules, func(a, b sarifRule) int { return strings.Compare(a.ID, b.ID) })
	for i, r := range driver.Rules {
		ids[r.ID] = i
	}
	for i := range s.results {
		s.results[i].RuleIndex = ids[s.results[i].RuleID]
	}
	run := sarifRun{
		Tool: sarifTool{driver}, ColumnKind: "unicodeCodePoints",
		OriginalURIBaseIDs: map[string]sarifArtifact{sarifBase: {URI: (&url.URL{Scheme: "file", Path: s.Dir + "/"}).String()}},
		Results:            append([]sarifResult{}, s.results...),
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}})
}
