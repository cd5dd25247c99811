// A component in Go: it says that it is ready, waits for Stop, and leaves.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/cmgr/cmgr/runners/elf/lifecycle"
)

func main() {
	if err := lifecycle.Serve(context.Background(), serve); err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context) error {
	if err := lifecycle.Ready(); err != nil {
		return err
	}
	if err := lifecycle.Status("idle"); err != nil {
		return err
	}
	fmt.Println("1 serving")
	<-ctx.Done() // Stop; or SIGTERM or Ctrl-C, where it runs without a manager
	fmt.Println("2 leaving")
	return nil
}
