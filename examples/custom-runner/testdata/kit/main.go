// Kit is the test program of runnertest's cases, for WebAssembly.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	if os.Args[1] != "prints" {
		fmt.Println("running")
	}
	switch os.Args[1] {
	case "exits with 7":
		os.Exit(7)
	case "runs until stopped":
		io.Copy(io.Discard, os.Stdin)
	case "ignores stop":
		for {
		}
	case "prints":
		io.Copy(os.Stdout, must(os.Open("/pkg/output")))
	}
}

func must(f *os.File, err error) *os.File {
	if err != nil {
		panic(err)
	}
	return f
}
