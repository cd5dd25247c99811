package cml

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/cmgr/cmgr/manifest/json5"
)

// BenchmarkLoad measures text → Validated, beside encoding/json reading the same as JSON into any.
func BenchmarkLoad(b *testing.B) {
	src := []byte(valid)
	tree, err := json5.Parse(src, json5.Options{})
	if err != nil {
		b.Fatal(err)
	}
	plain, err := json5.ToJSON(&tree)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encoding-json", func(b *testing.B) {
		b.SetBytes(int64(len(plain)))
		b.ReportAllocs()
		for b.Loop() {
			var v any
			if err := json.Unmarshal(plain, &v); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parse", func(b *testing.B) {
		b.SetBytes(int64(len(src)))
		b.ReportAllocs()
		for b.Loop() {
			if _, ds := Parse("b.cml", src); len(ds) > 0 {
				b.Fatal(ds)
			}
		}
	})
	b.Run("load", func(b *testing.B) {
		b.SetBytes(int64(len(src)))
		b.ReportAllocs()
		for b.Loop() {
			if v, _ := Load("b.cml", src, Options{}); v.IsZero() {
				b.Fatal("refused")
			}
		}
	})
}

// BenchmarkCorpus compiles manifests that people wrote, includes left out.
func BenchmarkCorpus(b *testing.B) {
	dir, index := corpus(b)
	var files [][]byte
	size := 0
	for _, f := range index {
		src, err := os.ReadFile(filepath.Join(dir, f.File))
		if err != nil {
			b.Fatal(err)
		}
		files = append(files, src)
		size += len(src)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		for _, src := range files {
			doc, _ := Parse("b.cml", src)
			doc.Include = Texts{}
			Compile(doc)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(files)), "µs/manifest")
}
