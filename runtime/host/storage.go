package host

import (
	"context"
	"os"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/internal/sys/mnt"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/componentpb"
)

// storageMethods are those of framework.StorageAdmin.
var storageMethods = map[string]method{
	"ListStorageInRealm": on(func(ctx context.Context, s *session, q *componentpb.StorageUser) (proto.Message, error) {
		m, err := s.absolute(q.Moniker)
		if err != nil {
			return nil, err
		}
		all, err := s.cfg.Tree.Stored(ctx, s.scope, s.storage)
		if err != nil {
			return nil, err
		}
		out := &componentpb.StorageUsers{}
		for _, u := range all {
			if m.Contains(u.User) {
				out.Monikers = append(out.Monikers, relative(s.scope, u.User))
			}
		}
		return out, nil
	}),
	"OpenStorage": giving(func(ctx context.Context, s *session, q *componentpb.StorageUser) (proto.Message, *os.File, error) {
		m, err := s.absolute(q.Moniker)
		if err == nil && m == s.scope {
			err = invalid("%q is the storage's own component, which keeps nothing in it", q.Moniker)
		}
		if err != nil {
			return nil, nil, err
		}
		f, err := s.cfg.Tree.OpenStored(ctx, s.scope, s.storage, m)
		return nil, f, err
	}),
	"DeleteComponentStorage": on(func(ctx context.Context, s *session, q *componentpb.StorageUser) (proto.Message, error) {
		m, err := s.absolute(q.Moniker)
		if err != nil {
			return nil, err
		}
		return nil, s.cfg.Tree.DeleteStored(ctx, s.scope, s.storage, m)
	}),
	"DeleteAllStorageContents": on(func(ctx context.Context, s *session, _ *componentpb.StorageUser) (proto.Message, error) {
		return nil, s.cfg.Tree.DeleteStored(ctx, s.scope, s.storage, name.Moniker(""))
	}),
	"GetStatus": on(func(ctx context.Context, s *session, _ *componentpb.StorageUser) (proto.Message, error) {
		f, err := s.cfg.Tree.OpenStored(ctx, s.scope, s.storage, "")
		if err != nil {
			return nil, err
		}
		defer f.Close()
		total, used, err := mnt.Usage(f)
		return &componentpb.StorageStatus{TotalSize: total, UsedSize: used}, err
	}),
}
