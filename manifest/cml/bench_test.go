package cml

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/manifest/cml/cmltest"
	"github.com/cmgr/cmgr/manifest/json5"
)

// The plain types are what encoding/json would read a manifest into.
type (
	plainDocument struct {
		Include      []string
		Program      map[string]any
		Children     []plainChild
		Collections  []plainCollection
		Environments []plainEnvironment
		Capabilities []plainClause
		Use          []plainClause
		Offer        []plainClause
		Expose       []plainClause
		Facets       map[string]any
		Config       map[string]plainType
	}
	plainChild struct {
		Name, URL, Startup, Environment string
		OnTerminate                     string `json:"on_terminate"`
		Restart                         map[string]any
	}
	plainCollection struct {
		Name, Durability, Environment string
		AllowedOffers                 string `json:"allowed_offers"`
		AllowLongNames                bool   `json:"allow_long_names"`
		PersistentStorage             bool   `json:"persistent_storage"`
	}
	plainEnvironment struct {
		Name, Extends             string
		Runners, Resolvers, Debug []plainClause
		StopTimeout               uint32 `json:"__stop_timeout_ms"`
	}
	plainClause struct {
		plainType
		Protocol, Service, Directory, Storage, Runner, Resolver, Dictionary, Config plainNames
		EventStream                                                                 plainNames `json:"event_stream"`
		From, To, Scope                                                             plainNames
		As, Path, Subdir, Dependency, Availability, Delivery, Activation, Scheme    string
		SourceAvailability                                                          string `json:"source_availability"`
		BackingDir                                                                  string `json:"backing_dir"`
		StorageID                                                                   string `json:"storage_id"`
		Key                                                                         string
		Rights                                                                      []string
		NumberedHandle                                                              *uint8 `json:"numbered_handle"`
		Filter                                                                      map[string]any
		Value, Default                                                              any
	}
	plainType struct {
		Type       string
		MaxSize    uint32 `json:"max_size"`
		MaxCount   uint32 `json:"max_count"`
		Element    *plainType
		Mutability []string
	}
	plainNames []string
)

func (n *plainNames) UnmarshalJSON(b []byte) error {
	if b[0] != '"' {
		return json.Unmarshal(b, (*[]string)(n))
	}
	*n = make(plainNames, 1)
	return json.Unmarshal(b, &(*n)[0])
}

// benchmark measures, over sources without includes: reading them as JSON with encoding/json, parsing, and loading, which is
// parsing, compiling and validating; formatting and decompiling besides.
func benchmark(b *testing.B, sources [][]byte) {
	var plain [][]byte
	size := 0
	for _, src := range sources {
		tree, err := json5.Parse(src, json5.Options{})
		if err != nil {
			b.Fatal(err)
		}
		p, err := json5.ToJSON(&tree)
		if err != nil {
			b.Fatal(err)
		}
		plain = append(plain, p)
		size += len(src)
	}
	each := func(name string, f func(i int)) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				for i := range sources {
					f(i)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/1000/float64(b.N*len(sources)), "µs/manifest")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/1000/(float64(b.N)*float64(size)/1024), "µs/KB")
		})
	}
	each("encoding-json", func(i int) {
		var doc plainDocument
		if err := json.Unmarshal(plain[i], &doc); err != nil {
			b.Fatal(err)
		}
	})
	each("parse", func(i int) {
		if _, ds := Parse("b.cml", sources[i]); len(ds) > 0 {
			b.Fatal(ds)
		}
	})
	each("load", func(i int) {
		if v, ds := Load("b.cml", sources[i], Options{}); v.IsZero() {
			b.Fatal(ds)
		}
	})
	each("format", func(i int) {
		if _, ds := Format("b.cml", sources[i]); len(ds) > 0 {
			b.Fatal(ds)
		}
	})
	v, _ := Load("b.cml", sources[0], Options{})
	each("decompile", func(int) { Decompile(v.Decl()) })
	b.Run("ratios", func(b *testing.B) { ratios(b, sources, plain) })
}

// ratios compares parsing and loading with encoding/json in one run, in turns, by CPU time, so that it doesn't matter what else the
// machine does: "parse/json" and "load/json" are medians of the turns.
func ratios(b *testing.B, sources, plain [][]byte) {
	steps := []func(i int){
		func(i int) {
			var doc plainDocument
			if err := json.Unmarshal(plain[i], &doc); err != nil {
				b.Fatal(err)
			}
		},
		func(i int) { Parse("b.cml", sources[i]) },
		func(i int) { Load("b.cml", sources[i], Options{}) },
	}
	const turn = 20 * time.Millisecond // many times what the clock of a process resolves
	reps := 1
	measure := func(f func(i int)) time.Duration {
		before := cpu()
		for range reps {
			for i := range sources {
				f(i)
			}
		}
		return cpu() - before
	}
	for measure(steps[0]) < turn {
		reps *= 2
	}
	var of [3][]float64
	for b.Loop() {
		base := measure(steps[0])
		for k, f := range steps[1:] {
			of[k] = append(of[k], float64(measure(f))/float64(base))
		}
	}
	for k, name := range []string{"parse/json", "load/json"} {
		slices.Sort(of[k])
		b.ReportMetric(of[k][len(of[k])/2], name)
	}
	b.ReportMetric(0, "ns/op") // of no meaning here
}

// cpu is the CPU time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLoad reads a manifest with a bit of everything.
func BenchmarkLoad(b *testing.B) { benchmark(b, [][]byte{[]byte(cmltest.Valid)}) }

// BenchmarkCorpus reads manifests that people wrote: those that are valid without what they include.
func BenchmarkCorpus(b *testing.B) {
	dir, index := corpus(b)
	var files [][]byte
	for _, f := range index {
		src, err := os.ReadFile(filepath.Join(dir, f.File))
		if err != nil {
			b.Fatal(err)
		}
		if v, _ := Load("b.cml", src, Options{}); !v.IsZero() {
			files = append(files, src)
		}
	}
	benchmark(b, files)
}

// BenchmarkTree reads the 10,000 manifests of a tree: each has ten children, what they need, and a program.
func BenchmarkTree(b *testing.B) {
	var sources [][]byte
	for i := range 10_000 {
		var s strings.Builder
		fmt.Fprintf(&s, "// Component %d.\n{\n    program: { runner: \"elf\", binary: \"bin/c%d\", args: [ \"--id\", \"%d\" ] },\n",
			i, i, i)
		fmt.Fprintf(&s, "    use: [\n        { protocol: [ \"log\", \"clock\" ] },\n        { directory: \"data\", path: \"/data\", "+
			"rights: [ \"r*\" ] },\n    ],\n    capabilities: [ { protocol: \"p%d\" } ],\n", i)
		fmt.Fprintf(&s, "    expose: [ { protocol: \"p%d\", from: \"self\" } ],\n    children: [\n", i)
		for c := range 10 {
			fmt.Fprintf(&s, "        { name: \"c%d\", url: \"c%d.cml\" }, // the %dth\n", c, i*10+c, c)
		}
		s.WriteString("    ],\n    offer: [\n        { runner: \"elf\", from: \"parent\", to: [ ")
		for c := range 10 {
			fmt.Fprintf(&s, "\"#c%d\", ", c)
		}
		s.WriteString("] },\n        { protocol: [ \"log\", \"clock\" ], from: \"parent\", to: \"all\" },\n    ],\n}\n")
		sources = append(sources, []byte(s.String()))
	}
	benchmark(b, sources)
}
