// Workers: called without an argument it is the boss, who makes workers in a collection by the protocol cmgr.component.Realm,
// starts each, waits for its end, and takes it out again; called as `serve worker` it is one of them.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/cmgr/cmgr/capabilities/framework"
)

func main() {
	if len(os.Args) > 1 {
		fmt.Println("at work")
		return
	}
	if err := boss(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func boss(ctx context.Context) error {
	realm, err := framework.OpenRealm(ctx)
	if err != nil {
		return err
	}
	defer realm.Close()
	for _, name := range []string{"ann", "bob"} {
		if err := realm.CreateChild(ctx, "workers", framework.Child{Name: name, URL: "worker.cml"}); err != nil {
			return err
		}
		worker := framework.Ref{Collection: "workers", Name: name}
		c, err := realm.OpenController(ctx, worker, nil)
		if err != nil {
			return err
		}
		if err := c.Start(ctx); err != nil {
			return err
		}
		s, err := c.Wait(ctx)
		if err != nil {
			return err
		}
		c.Close()
		fmt.Printf("%s has ended with code %d\n", name, s.Exit.Code)
		if err := realm.DestroyChild(ctx, worker); err != nil {
			return err
		}
	}
	left, err := realm.ListChildren(ctx, "workers")
	if err != nil {
		return err
	}
	fmt.Println(len(left), "are left")
	// What can't be had is told, and of which kind it is.
	err = realm.CreateChild(ctx, "staff", framework.Child{Name: "eve", URL: "worker.cml"})
	fmt.Println("staff:", err)
	return nil
}
