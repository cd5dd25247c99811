package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runtime/resolver"
)

// JSON gathers results and writes them as one object, by kind of capability and severity, as scrutiny does:
//
//	{ "root": "file:///srv/root.cml", "manifests": 3, "instances": 3, "routes": 12, "errors": 1, "warnings": 0, "allowed": 0,
//	  "results": [ { "capability_type": "protocol",
//	    "results": { "errors": [RESULT…], "warnings": […], "allowed": […], "ok": […] } } ],
//	  "stale": [FINDING…] }
//
// Every kind is there, and every key; what has no value is "", [] or, if it is an object, absent. Where names are those of
// `cmgr route --json` they mean the same.
type JSON struct {
	kinds map[manifest.Kind]*[4]jsonList
}

// The lists of each kind, in the order in which they are written.
var jsonLists = [4]string{"errors", "warnings", "allowed", "ok"}

// A jsonList is a JSON array without its brackets, in pieces, so that many results take no more space than their text.
type jsonList [][]byte

const jsonPiece = 64 << 10

type jsonResult struct {
	Target       string       `json:"target_moniker"`
	Decl         string       `json:"decl_type"`
	Kind         string       `json:"kind"`
	Capability   string       `json:"capability"`
	To           string       `json:"to"`
	Availability string       `json:"availability"`
	Outcome      string       `json:"outcome"` // Success, Void, Partial, Failed
	Source       string       `json:"source_moniker"`
	SourceName   string       `json:"source_capability"`
	Position     manifest.Pos `json:"position,omitzero"`
	Error        *jsonFail    `json:"error,omitempty"`
	Reason       string       `json:"reason"` // that the allowlist gives
	Hops         []jsonHop    `json:"hops"`   // of what is not ok, and where they were asked for
}

type jsonFail struct {
	Kind     string               `json:"kind"` // a capabilities.Code
	At       string               `json:"moniker"`
	Message  string               `json:"message"`
	Hint     string               `json:"hint"`
	Position manifest.Pos         `json:"position,omitzero"`
	Findings manifest.Diagnostics `json:"findings"` // in the manifest that does not resolve
}

type jsonHop struct {
	Moniker    string       `json:"moniker"`
	Decl       string       `json:"decl"`
	Capability string       `json:"capability"`
	Position   manifest.Pos `json:"position,omitzero"`
}

func hopsJSON(hops []capabilities.Hop) []jsonHop {
	out := make([]jsonHop, len(hops))
	for i, h := range hops {
		out[i] = jsonHop{string(h.At), h.Decl, h.Name, h.Pos}
	}
	return out
}

// findings are ds as an array, which is [] for none.
func findings(ds manifest.Diagnostics) manifest.Diagnostics {
	return append(manifest.Diagnostics{}, ds...)
}

// Cause is why a result fails, on a line without hint and findings: the engine's reason, and what else went wrong.
func Cause(e *capabilities.Error) string {
	if e.Err == nil {
		return e.Reason
	}
	if _, ok := manifest.AsDiagnostics(e.Err); ok {
		return e.Reason
	}
	if inner, ok := errors.AsType[*capabilities.Error](e.Err); ok {
		return e.Reason + ": " + inner.Reason
	}
	err := e.Err
	if re, ok := errors.AsType[*resolver.Error](err); ok {
		bare := *re
		bare.Hint = ""
		err = &bare
	}
	return e.Reason + ": " + err.Error()
}

func (r *Result) json(withHops bool) jsonResult {
	out := jsonResult{
		Target: string(r.Target), Decl: r.Decl, Kind: r.Kind.String(), Capability: r.Name, To: r.To,
		Availability: r.Availability.String(), Outcome: "Success", Position: r.Pos, Reason: r.Allowed,
		Hops: []jsonHop{},
	}
	hops := []capabilities.Hop(nil)
	if r.Route != nil {
		hops = r.Route.Hops
		if r.Route.Source.Kind == capabilities.FromVoid {
			out.Outcome = "Void"
		} else {
			out.Source, out.SourceName = r.Route.Source.String(), r.Route.Source.Name
		}
	}
	if e := r.Err; e != nil {
		out.Outcome = "Partial"
		if r.Route == nil {
			out.Outcome, hops = "Failed", e.Hops
		}
		ds, _ := manifest.AsDiagnostics(e.Err)
		out.Error = &jsonFail{e.Why.String(), string(e.At), Cause(e), e.Hint, e.Pos, findings(ds)}
	}
	if withHops {
		out.Hops = hopsJSON(hops)
	}
	return out
}

// Add adds a result.
func (j *JSON) Add(r *Result) {
	list := [...]int{Error: 0, Warning: 1, OK: 3}[r.Severity]
	if r.Allowed != "" {
		list = 2
	}
	if j.kinds == nil {
		j.kinds = map[manifest.Kind]*[4]jsonList{}
	}
	if j.kinds[r.Kind] == nil {
		j.kinds[r.Kind] = new([4]jsonList)
	}
	j.kinds[r.Kind][list].add(r.json(r.Severity != OK))
}

func (l *jsonList) add(v any) {
	b, _ := plain(v) // strings and numbers only
	last := len(*l) - 1
	if last >= 0 {
		b = append([]byte(","), b...)
	}
	if last < 0 || len((*l)[last])+len(b) > cap((*l)[last]) {
		*l = append(*l, make([]byte, 0, max(jsonPiece, len(b))))
		last++
	}
	(*l)[last] = append((*l)[last], b...)
}

// plain is v as JSON in which <component manager> stays as it is.
func plain(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// Write writes what was gathered, on one line.
func (j *JSON) Write(w io.Writer, t *Tree, s Summary, stale manifest.Diagnostics) error {
	head, err := json.Marshal(struct {
		Root      string `json:"root"`
		Manifests int    `json:"manifests"`
		Instances int    `json:"instances"`
		Routes    int    `json:"routes"`
		Errors    int    `json:"errors"`
		Warnings  int    `json:"warnings"`
		Allowed   int    `json:"allowed"`
	}{t.RootURL, t.Manifests, t.Instances, s.Routes, s.Errors, s.Warnings, s.Allowed})
	if err != nil {
		return err
	}
	tail, err := json.Marshal(findings(stale))
	if err != nil {
		return err
	}
	parts := [][]byte{head[:len(head)-1], []byte(`,"results":[`)}
	for i, k := range manifest.Kinds() {
		if i > 0 {
			parts = append(parts, []byte(","))
		}
		parts = append(parts, []byte(`{"capability_type":"`+k.String()+`","results":{`))
		for l, word := range jsonLists {
			if l > 0 {
				parts = append(parts, []byte(","))
			}
			parts = append(parts, []byte(`"`+word+`":[`))
			if j.kinds[k] != nil {
				parts = append(parts, j.kinds[k][l]...)
			}
			parts = append(parts, []byte("]"))
		}
		parts = append(parts, []byte("}}"))
	}
	parts = append(parts, []byte(`],"stale":`), tail, []byte("}\n"))
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// MarshalJSON is the object of what asks (as in JSON, but with what is reached as the source) and "source_kind", the kind of
// that.
func (r Reach) MarshalJSON() ([]byte, error) {
	out := r.By.json(false)
	out.Source, out.SourceName, out.Hops = r.Source.String(), r.Source.Name, hopsJSON(r.Hops)
	return plain(struct {
		jsonResult
		SourceKind string `json:"source_kind"`
	}{out, r.Kind.String()})
}

// MarshalJSON is {"change": "added", "removed" or "changed", "before": RESULT, "after": RESULT} with what there is of the two.
func (c Change) MarshalJSON() ([]byte, error) {
	out := struct {
		Change string      `json:"change"`
		Before *jsonResult `json:"before,omitempty"`
		After  *jsonResult `json:"after,omitempty"`
	}{Change: c.Word()}
	if c.Before != nil {
		r := c.Before.json(true)
		out.Before = &r
	}
	if c.After != nil {
		r := c.After.json(true)
		out.After = &r
	}
	return plain(out)
}
