package framework

import (
	"context"
	"errors"
	"os"

	"github.com/cmgr/cmgr/proto/componentpb"
)

// A StorageClient is a connection to StorageAdmin, by which who declares a storage looks after what others keep there. Monikers
// are relative to it.
type StorageClient struct{ Client }

// OpenStorageAdmin connects to StorageAdmin at its usual path.
func OpenStorageAdmin(ctx context.Context) (*StorageClient, error) {
	c, err := dial(ctx, StorageAdmin)
	if err != nil {
		return nil, err
	}
	return &StorageClient{c}, nil
}

// List are the components at and below moniker that keep something in the storage, in the tree or not.
func (c *StorageClient) List(ctx context.Context, moniker string) ([]string, error) {
	got := new(componentpb.StorageUsers)
	_, err := c.call(ctx, "ListStorageInRealm", &componentpb.StorageUser{Moniker: moniker}, got)
	return got.Monikers, err
}

// Open opens the directory of a component, which is made if need be. It is the caller's.
func (c *StorageClient) Open(ctx context.Context, moniker string) (*os.File, error) {
	f, err := c.call(ctx, "OpenStorage", &componentpb.StorageUser{Moniker: moniker}, nil)
	if err == nil && f == nil {
		err = errors.New("the answer lacks the directory")
	}
	return f, err
}

// Delete removes what a component keeps; its program must not run.
func (c *StorageClient) Delete(ctx context.Context, moniker string) error {
	_, err := c.call(ctx, "DeleteComponentStorage", &componentpb.StorageUser{Moniker: moniker}, nil)
	return err
}

// DeleteAll removes what all components keep; none of their programs must run.
func (c *StorageClient) DeleteAll(ctx context.Context) error {
	_, err := c.call(ctx, "DeleteAllStorageContents", &componentpb.StorageUser{}, nil)
	return err
}

// Status is how large the storage's file system is and how much of it is used, in bytes.
func (c *StorageClient) Status(ctx context.Context) (total, used uint64, err error) {
	got := new(componentpb.StorageStatus)
	_, err = c.call(ctx, "GetStatus", &componentpb.StorageUser{}, got)
	return got.TotalSize, got.UsedSize, err
}
