// Hello is a component in WebAssembly: it greets, and waits to be asked to stop. Built with GOOS=wasip1 GOARCH=wasm.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	fmt.Println(strings.Join(os.Args[1:], " "))
	if os.Getenv("STAY") == "yes" {
		io.Copy(io.Discard, os.Stdin) // its end is the wish that we stop
		fmt.Println("Goodbye!")
	}
}
