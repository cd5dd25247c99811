package routingtest_test

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"testing"

	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/capabilities/routing/routingtest"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
)

func TestOffline(t *testing.T) {
	routingtest.Run(t, func(_ *testing.T, c routingtest.Case) routingtest.Tree {
		return routing.NewOffline("root.cml", func(_ context.Context, url, parent string) (manifest.Validated, string, error) {
			file := path.Join(path.Dir(parent), url)
			src, ok := c.Files[file]
			if !ok {
				return manifest.Validated{}, "", fmt.Errorf("%s: %w", file, fs.ErrNotExist)
			}
			v, ds := cml.Load(file, []byte(src), cml.Options{})
			return v, file, ds.Err()
		})
	})
}
